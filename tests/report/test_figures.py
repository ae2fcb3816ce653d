"""The pictures show what they say: decoded again, they are compared with what was put in."""

import io

import numpy as np
import pytest
from PIL import Image as Picture

from regkit.geometry import Affine, Grid
from regkit.report import charts, figures, scene


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Picture.open(io.BytesIO(data)).convert("RGBA")).astype(int)


@pytest.mark.parametrize("ndim", [2, 3])
def test_stacked_pictures_have_one_size(make_result, ndim):
    view = scene.build(make_result(ndim))
    sizes = {
        pixels(data).shape
        for data in (figures.grey(view, "fixed"), figures.grey(view, "before"), figures.grey(view, "after"), figures.contours(view))
    }
    assert len(sizes) == 1
    height, width, _ = sizes.pop()
    assert width <= figures.WIDTH + 1 and height <= figures.TALLEST + 1


def test_aspect_is_true(make_result):
    view = scene.build(make_result(2))
    (shot,) = view.centre
    height, width, _ = pixels(figures.grey(view, "fixed")).shape
    assert width / height == pytest.approx(shot.extent_mm[0] / shot.extent_mm[1], rel=0.01)


def test_overlay_is_grey_where_scans_agree_and_coloured_before(make_result):
    view = scene.build(make_result(3))
    colour = {what: np.abs(np.diff(pixels(figures.overlay(view, what))[..., :2], axis=-1)).mean() for what in ("before", "after")}
    assert colour["after"] < 3 < 3 * colour["after"] + 3 < colour["before"] + 6
    assert colour["before"] > 2 * colour["after"]


def test_before_is_black_where_the_scans_do_not_meet(make_result):
    view = scene.build(make_result(3, apart=True))
    assert view.overlap == 0
    assert all(shot.before.max() == 0 for shot in view.centre)


def test_contours_are_transparent_elsewhere(make_result):
    alpha = pixels(figures.contours(scene.build(make_result(3))))[..., 3]
    assert 0.001 < (alpha > 100).mean() < 0.2
    assert (alpha == 0).mean() > 0.7


def test_folds_are_marked(make_result):
    def yellow(result):
        view = scene.build(result)
        red, green, blue, _ = np.moveaxis(pixels(figures.jacobian(view, scene.determinant(result))), -1, 0)
        return ((red > 220) & (green > 200) & (blue < 80)).mean()

    assert yellow(make_result(3)) == 0
    assert yellow(make_result(3, folded=True)) > 0.001


def test_determinant_is_physical(make_result):
    """A stretch of 1.1 is a volume of 1.1^3 whatever the voxels' sizes and handedness."""
    result = make_result(3)
    flipped = np.diag([-2.0, 1.0, 0.5, 1.0])
    result.moving.__dict__["grid"] = Grid((20, 20, 20), flipped)
    result.transform = Affine(np.diag([1.1, 1.1, 1.1, 1.0]))
    np.testing.assert_allclose(scene.determinant(result), 1.1**3, rtol=1e-4)


def test_deformation_takes_the_affine_part_off(make_result):
    result = make_result(3)
    matrix = np.eye(4)
    matrix[:3, :3] += np.random.default_rng(0).normal(0, 0.1, (3, 3))
    matrix[:3, 3] = [30, -20, 10]
    result.transform = Affine(matrix)
    view = scene.build(result)
    for shot in view.centre:
        rows, columns = shot.fixed.shape
        wanted = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)
        np.testing.assert_allclose(scene.Deformation(result, view).sources(shot), wanted, atol=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
def test_every_figure_draws(make_result, ndim):
    result = make_result(ndim, masked=True)
    view = scene.build(result)
    for data in (figures.checkerboard(view, "after"), figures.deformation_grid(view, scene.Deformation(result, view))):
        assert pixels(data)[..., :3].std() > 5


def test_charts():
    random = np.random.default_rng(0)
    drawn = [
        charts.histogram(random.normal(0, 0.1, (10, 10, 10)), 0.01),
        charts.colour_bar(0.5),
        charts.landmark_errors(random.random(9) + 2, random.random(9)),
        charts.loss_curves({"affine": [2.0, 1.0], "one value": [1.0]}),
    ]
    assert all((pixels(data)[..., 3] > 0).any() for data in drawn)
    assert charts.loss_curves({"affine": [1.0], "none": []}) is None
    assert charts.histogram(np.full((3, 3), np.nan), 1.0)


def test_no_pyplot():
    import subprocess
    import sys

    code = "import regkit.report, sys; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
