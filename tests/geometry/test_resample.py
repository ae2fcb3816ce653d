"""Resampling: interpolation kinds, dtypes, borders, and downsampling without aliasing."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from regkit.errors import InputError
from regkit.geometry import Affine, Grid, Image, resample, smooth_resample


def shift(grid: Grid, voxels) -> Affine:
    matrix = np.eye(grid.ndim + 1)
    matrix[:-1, -1] = grid.affine[:-1, :-1] @ voxels
    return Affine(matrix)


def test_same_grid_comes_back_unchanged(fixed_grid, make_image):
    image = make_image(fixed_grid, np.int16)
    assert resample(image, Grid(fixed_grid.shape, fixed_grid.affine + 0.0)) is image


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8, np.float16])
def test_linear_is_float32(dtype, fixed_grid, make_image):
    image = make_image(fixed_grid, dtype)
    moved = resample(image, fixed_grid, shift(fixed_grid, (1, 0.5, 0)), labels=False)
    assert moved.data.dtype == np.float32 and moved.grid is fixed_grid
    data = image.data.astype(np.float32)
    expected = 0.5 * (data[1:, :-1] + data[1:, 1:])
    np.testing.assert_allclose(moved.data[:-1, :-1], expected, atol=1e-2)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_labels_keep_dtype_and_values(dtype, fixed_grid, make_image):
    image = make_image(fixed_grid, np.uint8)
    largest = 1 if dtype is bool else int(np.iinfo(dtype).max)
    values = np.array([largest * i // 255 for i in range(256)], dtype)
    image = Image(values[image.data], fixed_grid)
    moved = resample(image, fixed_grid, shift(fixed_grid, (1, -2, 0.3)), padding="border")
    assert moved.data.dtype == dtype
    np.testing.assert_array_equal(moved.data[:-1, 2:], image.data[1:, :-2])


def test_float_images_can_be_labels(fixed_grid, make_image):
    image = make_image(fixed_grid, np.float64)
    moved = resample(image, fixed_grid, shift(fixed_grid, (0.4, 0.4, -0.4)), labels=True)
    assert moved.data.dtype == np.float64
    np.testing.assert_array_equal(moved.data, image.data)


@pytest.mark.parametrize("factor", [2, 4])
def test_halving_by_majority_moves_no_outline(factor):
    """The box lies in the middle, and so does what is left of it; by nearest neighbours it is half a voxel away."""
    grid = Grid((48, 40), np.eye(3))
    data = np.zeros(grid.shape, np.uint8)
    edge = 3 * factor // 2  # in the middle of a coarse voxel
    data[edge:-edge, edge:-edge] = 3
    coarse = grid.with_spacing((factor, factor))
    maps = {labels: resample(Image(data, grid), coarse, labels=labels).data for labels in ("majority", True)}
    assert {name: set(np.unique(found)) for name, found in maps.items()} == {"majority": {0, 3}, True: {0, 3}}
    assert np.array_equal(maps["majority"], maps["majority"][::-1, ::-1])
    assert not np.array_equal(maps[True], maps[True][::-1, ::-1])


def test_majority_is_for_integers(fixed_grid, make_image):
    with pytest.raises(TypeError, match="integers"):
        resample(make_image(fixed_grid, np.float32), fixed_grid.with_spacing(2.0), labels="majority")


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_padding(dtype, fixed_grid, make_image):
    image = make_image(fixed_grid, dtype)
    transform = shift(fixed_grid, (2, 0, 0))
    np.testing.assert_array_equal(resample(image, fixed_grid, transform).data[-2:], 0)
    np.testing.assert_array_equal(resample(image, fixed_grid, transform, fill=-1024).data[-2:], -1024)
    border = resample(image, fixed_grid, transform, padding="border").data
    np.testing.assert_allclose(border[-2:], np.broadcast_to(image.data[-1:], border[-2:].shape), rtol=1e-3, atol=0.05)
    with pytest.raises(InputError, match="zeros"):
        resample(image, fixed_grid, transform, padding="wrap")
    with pytest.raises(InputError, match="fill=3 needs"):
        resample(image, fixed_grid, transform, padding="border", fill=3)


def test_slabs_make_no_seams(fixed_grid, moving_grid, make_image, make_transform, monkeypatch):
    image, transform = make_image(moving_grid), make_transform(fixed_grid)
    whole = resample(image, fixed_grid, transform).data
    monkeypatch.setattr("regkit.geometry.displacement._SLAB_VOXELS", 1)
    np.testing.assert_allclose(resample(image, fixed_grid, transform).data, whole, atol=1e-2)


@pytest.mark.parametrize("factor", [1.0, 2.0, 2.7, 4.0])
def test_smooth_resample_is_gauss_then_linear(factor, fixed_grid, make_image):
    image = make_image(fixed_grid)
    coarse = fixed_grid.with_spacing(tuple(factor * s for s in fixed_grid.spacing))
    result = smooth_resample(image, coarse)
    assert result.grid == coarse and result.data.dtype == np.float32
    smooth = image.data.astype(np.float64)
    for axis, (n, m) in enumerate(zip(fixed_grid.shape, coarse.shape)):
        if n > m:
            smooth = gaussian_filter1d(smooth, 0.5 * np.sqrt((n / m) ** 2 - 1), axis=axis, mode="nearest", truncate=8)
    expected = resample(Image(smooth, fixed_grid), coarse).data
    inner = tuple(slice(2, -2) for _ in range(3)) if factor < 3 else tuple(slice(1, -1) for _ in range(3))
    np.testing.assert_allclose(result.data[inner], expected[inner], atol=0.02 * np.ptp(expected))


def test_smooth_resample_removes_what_the_grid_cannot_hold():
    stripes = Image.from_array(np.tile(np.array([0, 100], np.float32), (32, 16)))
    coarse = stripes.grid.with_spacing(4.0)
    assert np.ptp(resample(stripes, Grid(coarse.shape, coarse.affine + np.eye(3, k=2) * 0.5)).data[1:-1, 1:-1]) == 0
    np.testing.assert_allclose(smooth_resample(stripes, coarse).data[:, 1:-1], 50, atol=0.5)
    assert smooth_resample(stripes, coarse).data.mean() == pytest.approx(50, abs=1)


def test_smooth_resample_onto_other_axes(fixed_grid, moving_grid, make_image):
    image = make_image(fixed_grid)
    coarse = moving_grid.with_spacing(tuple(2 * s for s in moving_grid.spacing))
    result = smooth_resample(image, coarse, fill=-9.0)
    assert (result.data == -9).any() and np.ptp(result.data[result.data != -9]) < 0.8 * np.ptp(image.data)
    inside = fixed_grid.contains(coarse.to_world(np.argwhere(np.ones(coarse.shape))))
    np.testing.assert_array_equal((result.data == -9).ravel(), ~inside)


def test_smooth_resample_of_labels_is_nearest(fixed_grid, make_image):
    image = make_image(fixed_grid, np.uint8)
    coarse = fixed_grid.with_spacing(3.0)
    result = smooth_resample(image, coarse)
    assert result.data.dtype == np.uint8
    np.testing.assert_array_equal(result.data, resample(image, coarse).data)


def test_dimensions_must_agree(fixed_grid, flat_grid, make_image):
    with pytest.raises(InputError, match="dimensions differ"):
        resample(make_image(fixed_grid), flat_grid)
    with pytest.raises(InputError, match="dimensions differ"):
        smooth_resample(make_image(fixed_grid), flat_grid)


def test_a_constant_stays_constant(fixed_grid):
    image = Image(np.full(fixed_grid.shape, 37.0), fixed_grid)
    assert torch.allclose(torch.from_numpy(smooth_resample(image, fixed_grid.with_spacing(3.3)).data), torch.tensor(37.0))
