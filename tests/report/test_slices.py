"""Slices look the same whatever the file's axis order and directions, with the patient's right on the left."""

from itertools import permutations, product

import numpy as np
import pytest

from regkit.geometry import Grid
from regkit.report import slices


def oriented(data: np.ndarray, affine: np.ndarray, order: tuple[int, ...], flips: tuple[int, ...]) -> tuple[np.ndarray, Grid]:
    """The same scan stored with other axes: array axis n of the result is axis order[n], reversed where flips[n]."""
    change = np.zeros((4, 4))
    change[3, 3] = 1
    stored = data.transpose(order)
    for axis, (source, flip) in enumerate(zip(order, flips)):
        change[source, axis] = -1 if flip else 1
        if flip:
            change[source, 3] = data.shape[source] - 1
            stored = np.flip(stored, axis)
    return stored, Grid(stored.shape, affine @ change)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product((0, 1), repeat=3)))
def test_pictures_do_not_depend_on_storage(order, flips):
    data = np.random.default_rng(0).random((5, 6, 7))
    stored, grid = oriented(data, np.diag([1.0, 2.0, 3.0, 1.0]), order, flips)
    planes = {plane.name: plane for plane in slices.planes(grid)}
    for name, world_axis in (("axial", 2), ("coronal", 1), ("sagittal", 0)):
        plane = planes[name]
        place = 2
        index = place if not flips[order.index(world_axis)] else data.shape[world_axis] - 1 - place
        rest = np.take(data, place, axis=world_axis)  # (first, second) world axis, both towards R, A, S
        np.testing.assert_array_equal(plane.cut(stored, index), rest[::-1, ::-1].T)
        assert plane.letters == {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}[name]
        assert plane.aspect == pytest.approx({"axial": 2 / 1, "coronal": 3 / 1, "sagittal": 3 / 2}[name])


def test_2d_images_are_shown_as_stored():
    data = np.arange(12.0).reshape(4, 3)
    (plane,) = slices.planes(Grid.from_spacing((4, 3)))
    np.testing.assert_array_equal(plane.cut(data, 0), data.T)
    assert plane.letters is None


def test_indices_and_to_picture_agree_with_cut():
    data = np.random.default_rng(1).random((5, 6, 7))
    stored, grid = oriented(data, np.eye(4), (2, 0, 1), (1, 0, 1))
    for plane in slices.planes(grid):
        points = plane.indices(3)
        picture = plane.cut(stored, 3)
        np.testing.assert_array_equal(stored[tuple(points.astype(int).reshape(-1, 3).T)].reshape(points.shape[:2]), picture)
        columns, rows = np.meshgrid(np.arange(picture.shape[1]), np.arange(picture.shape[0]))
        np.testing.assert_array_equal(plane.to_picture(points.reshape(-1, 3)), np.stack([columns.ravel(), rows.ravel()], axis=1))


def test_crop_shows_the_box():
    inside = np.zeros((8, 9, 10))
    lower, upper = np.array([1, 2, 3]), np.array([5, 8, 9])
    inside[1:5, 2:8, 3:9] = 1
    stored, grid = oriented(inside, np.eye(4), (0, 1, 2), (1, 0, 0))
    low, high = slices.bounding_box(stored > 0, margin=0.0)
    assert sorted((high - low).tolist()) == sorted((upper - lower).tolist())
    for plane in slices.planes(grid):
        assert plane.cut(stored, 4)[plane.crop(low, high)].all()


def test_window_leaves_padding_out():
    data = np.random.default_rng(2).normal(-500, 100, (30, 30, 30)).astype(np.float32)
    data[:4] = -2048
    low, high = slices.grey_window(data, None)
    assert -900 < low < -650 and -350 < high < -100


def test_background_close_to_the_tissue_is_black():
    data = np.zeros((20, 20, 20), np.float32)
    data[5:15, 5:15, 5:15] = np.random.default_rng(3).uniform(50, 400, (10, 10, 10))
    assert slices.grey_window(data, None)[0] == 0


def test_constant_scan_has_a_window():
    low, high = slices.grey_window(np.full((4, 4, 4), 7.0), None)
    assert high > low


def test_contour_levels_separate_tissues():
    data = np.random.default_rng(4).choice([100.0, 200.0, 300.0], (20, 20, 20))
    levels = slices.contour_levels(data, np.ones(data.shape, bool), (0.0, 400.0))
    assert len(levels) == 2 and 100 < levels[0] < 200 < levels[1] < 300


def test_slice_choices_lie_in_the_mask():
    mask = np.zeros((30, 30, 30), bool)
    mask[5:9, 10:20, 12:28] = True
    for plane in slices.planes(Grid.from_spacing((30, 30, 30))):
        for index in slices.slice_choices(plane, mask, 5) + slices.slice_choices(plane, mask, 1):
            assert np.take(mask, index, axis=plane.axis).any()


def test_a_single_slice_shows_much_of_the_mask():
    lungs = np.zeros((30, 20, 20), bool)
    lungs[4:12, 5:15, 5:15] = lungs[18:26, 5:15, 5:15] = True
    (sagittal,) = [plane for plane in slices.planes(Grid.from_spacing(lungs.shape)) if plane.name == "sagittal"]
    assert lungs[slices.slice_choices(sagittal, lungs, 1)[0]].any()
    assert slices.slice_choices(sagittal, np.ones(lungs.shape, bool), 1)[0] in (14, 15)


def test_obliquity():
    angle = np.radians(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert slices.obliquity_degrees(Grid((4, 4, 4), affine)) == pytest.approx(20, abs=1e-6)
    assert slices.obliquity_degrees(Grid.from_spacing((4, 4, 4))) == 0


def test_the_moving_scan_is_shown_by_its_own_grey_levels(make_result):
    """Interpolation mixes a CT's padding of -2048 with tissue: the moved scan's darkest values are no grey level of the patient."""
    from dataclasses import replace

    from regkit.report import scene

    result = make_result(3)
    for name in ("fixed", "moving"):
        image = getattr(result, name)
        data = image.data - 1000
        data[:3] = -2048
        setattr(result, name, replace(image, data=data))
    moved = result.fixed.data.copy()
    moved[3] = np.linspace(-2040, -1500, moved[3].size).reshape(moved[3].shape)
    result.moved = replace(result.moved, data=moved)
    view = scene.build(result)
    assert slices.grey_window(moved, None)[0] < -1500 < -1100 < slices.grey_window(result.fixed.data, None)[0]
    inner = np.concatenate([np.abs(shot.fixed - shot.after)[4:-4, 6:-4].ravel() for shot in view.centre])
    assert np.median(inner) < 0.02


def test_the_mask_lies_where_its_header_says(make_result):
    from dataclasses import replace

    from regkit.geometry import Grid
    from regkit.report import scene

    result = make_result(3, masked=True)
    wanted = scene.build(result)
    affine = result.fixed.grid.affine.copy()
    affine[:3, 3] += affine[:3, 0] * 2  # the same mask, stored from its third plane on
    rolled = np.roll(result.fixed_mask.data, -2, axis=0)
    result.fixed_mask = replace(result.fixed_mask, data=rolled, grid=Grid(rolled.shape, affine))
    for shot, other in zip(scene.build(result).centre, wanted.centre):
        np.testing.assert_array_equal(shot.mask, other.mask)
