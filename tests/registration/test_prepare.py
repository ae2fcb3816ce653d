"""What the stages are given: grey values in 0..1, a cubic grid around the foreground, coarser levels over the same box, and what counts."""

import numpy as np
import pytest

from regkit.geometry import Affine, Grid, Image
from regkit.registration.config import Config, Intensity
from regkit.registration.prepare import FEWEST, Scan, coverage, level_grid, normalise, on_grid, working_grid


def image(data, spacing=1.0):
    return Image(np.asarray(data), Grid.from_spacing(np.shape(data), spacing))


def test_window_clips():
    data = np.array([[-2048, -1000], [-300, 3000]], np.int16)
    found = normalise(image(data), Intensity(window=(-1000.0, 400.0)))
    assert found.data.dtype == np.float32
    np.testing.assert_allclose(found.data, [[0, 0], [0.5, 1]])


def test_percentiles_are_of_what_is_above_the_background():
    random = np.random.default_rng(0)
    data = np.zeros((40, 40, 40), np.float32)
    data[:16] = random.uniform(100, 200, (16, 40, 40))
    data[0, 0, 0] = 1e6  # a hot voxel must not squeeze the rest
    found = normalise(image(data), Intensity()).data
    assert (found[16:] == 0).all() and found.max() == 1
    assert np.median(found[:16]) == pytest.approx(0.75, abs=0.02)  # stripped: 0 is black although no tissue is below 100
    whole = normalise(image(data[:16] + 1000), Intensity()).data
    assert np.median(whole) == pytest.approx(0.5, abs=0.02)  # nothing stripped: percentile to percentile


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float64])
def test_any_type_and_unit(dtype):
    data = np.random.default_rng(0).integers(0, 255, (9, 9, 9)).astype(dtype)
    wanted = normalise(image(data), Intensity()).data
    np.testing.assert_allclose(normalise(image(data * 1e-9), Intensity()).data, wanted, atol=1e-5)
    np.testing.assert_allclose(normalise(image(data.astype(np.float64) * 1e9 - 5e8), Intensity()).data, wanted, atol=1e-5)


def test_working_grid_is_cubic_and_holds_the_foreground():
    data = np.zeros((60, 40, 30), np.float32)
    data[20:40, 10:20, 5:25] = 1
    data[0, 0, 0] = -1e-3
    scan = Scan(normalise(image(data, (1.0, 1.0, 2.0)), Intensity(window=(0.0, 1.0))), None)
    grid = working_grid(scan, Config(margin=4))
    np.testing.assert_allclose(grid.spacing, 2 ** (1 / 3), rtol=0.03)
    corners = grid.to_index(scan.image.grid.to_world(np.array([[20, 10, 5], [39, 19, 24]], float)))
    assert (corners.min(0) >= 3.5).all() and (corners.max(0) <= np.array(grid.shape) - 4.5).all()
    assert np.prod(working_grid(scan, Config(max_voxels=2000)).shape) == pytest.approx(2000, rel=0.2)
    np.testing.assert_allclose(working_grid(scan, Config(spacing_mm=3.0)).spacing, 3, rtol=0.1)


def test_the_mask_is_the_foreground():
    data, inside = np.random.default_rng(0).random((30, 30, 30), dtype=np.float32), np.zeros((30, 30, 30), np.uint8)
    inside[10:20, 10:20, 10:20] = 3
    grid = working_grid(Scan(image(data), image(inside)), Config(margin=2))
    assert grid.shape == (14, 14, 14)


def test_levels_share_the_box():
    grid = Grid((40, 30, 9), np.diag([2.0, 2.0, 2.0, 1.0]))
    assert level_grid(grid, 1) == grid
    coarse = level_grid(grid, 4.0)
    assert min(coarse.shape) >= min(FEWEST, 9) and coarse.shape[0] <= grid.shape[0]
    thick = grid.with_shape((400, 300, 240))
    assert level_grid(thick, 4.0).shape == (100, 75, 60)
    assert coarse.volume_mm3 == pytest.approx(grid.volume_mm3)
    np.testing.assert_allclose(coarse.center, grid.center)


def test_on_grid_through_an_affine():
    data = np.random.default_rng(0).random((20, 18, 16), dtype=np.float32)
    shift = np.eye(4)
    shift[:3, 3] = 3, 0, -2
    found = on_grid(Scan(image(data), None), Grid.from_spacing((20, 18, 16)), Affine(shift))
    np.testing.assert_allclose(found[0, 0, :17, :, 2:].numpy(), data[3:, :, :-2], atol=1e-5)
    np.testing.assert_allclose(found[0, 0, -1, :, 2:].numpy(), data[-1, :, :-2], atol=1e-5)  # the border goes on outside


def test_coverage():
    scan = Scan(image(np.ones((10, 10), np.float32)), image(np.pad(np.full((4, 4), 7, np.uint8), 3)))
    grid = Grid.from_spacing((10, 10))
    assert coverage(scan, grid, None, False) is None
    shift = np.eye(3)
    shift[0, 2] = 4.0
    seen = coverage(scan, grid, Affine(shift), False)
    assert seen.sum() == 60 and seen[0, 0, 5].min() == 1 and seen[0, 0, 6].max() == 0
    assert coverage(scan, grid, None, True).sum() == 16
