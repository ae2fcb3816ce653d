"""Affine, DisplacementField, Composite, and the displacement that they add up to: against ITK, point by point and voxel by voxel."""

import numpy as np
import pytest
import SimpleITK
import torch

from regkit import ops
from regkit.errors import InputError
from regkit.geometry import Affine, Composite, DisplacementField, Grid, as_displacement_field, total_displacement, transform_to_sitk


def scattered(grid: Grid, n: int = 400, reach: float = 0.15) -> np.ndarray:
    """World points in and somewhat around the grid."""
    shape = np.array(grid.shape)
    return grid.to_world(np.random.default_rng(3).uniform(-reach * shape, (1 + reach) * shape, (n, grid.ndim)))


def itk_apply(transform: SimpleITK.Transform, points: np.ndarray) -> np.ndarray:
    signs = (-1, -1, 1) if points.shape[1] == 3 else (1, 1)
    return np.array([transform.TransformPoint(p) for p in (points * signs).tolist()]) * signs


@pytest.mark.parametrize("ndim", [2, 3])
def test_points_agree_with_itk(ndim, fixed_grid, flat_grid, make_transform):
    grid = fixed_grid if ndim == 3 else flat_grid
    transform = make_transform(grid)
    points = scattered(grid)
    for part in (transform, *transform.parts, transform @ transform):
        np.testing.assert_allclose(part.apply(points), itk_apply(transform_to_sitk(part), points), atol=1e-4)
    assert np.abs(transform.parts[1].apply(points) - points).max() > 1
    assert (transform.parts[1].apply(points) == points).all(axis=1).any()  # points outside the field stay


def test_order_is_last_to_first(fixed_grid, make_transform):
    affine, field = make_transform(fixed_grid).parts
    points = scattered(fixed_grid)
    expected = affine.apply(field.apply(points))
    np.testing.assert_array_equal(Composite([affine, field]).apply(points), expected)
    np.testing.assert_array_equal((affine @ field).apply(points), expected)
    assert np.abs((field @ affine).apply(points) - expected).max() > 0.1


def test_matmul_folds_and_flattens(fixed_grid, make_transform):
    affine, field = make_transform(fixed_grid).parts
    assert isinstance(affine @ affine, Affine)
    np.testing.assert_allclose((affine @ affine.inverse()).matrix, np.eye(4), atol=1e-12)
    chain = Composite([Composite([affine, field]), affine])
    assert chain.parts == (affine, field, affine)
    assert ((affine @ field) @ field).parts == (affine, field, field)


def test_from_voxels_is_in_world_units(fixed_grid):
    displacement = np.random.default_rng(0).normal(size=(3, *fixed_grid.shape)).astype(np.float32)
    field = DisplacementField.from_voxels(displacement, fixed_grid)
    index = np.array([[4.0, 5, 6]])
    moved = field.apply(fixed_grid.to_world(index))
    np.testing.assert_allclose(fixed_grid.to_index(moved), index + displacement[:, 4, 5, 6], atol=1e-5)
    np.testing.assert_allclose(total_displacement(field, fixed_grid, fixed_grid)[0], displacement, atol=1e-4)


FIELDS = {
    "half resolution": lambda fixed, other: fixed.with_spacing(tuple(2 * s for s in fixed.spacing)),
    "fixed grid": lambda fixed, other: fixed,
    "finer": lambda fixed, other: fixed.with_spacing(tuple(s / 1.7 for s in fixed.spacing)),
    "inner part": lambda fixed, other: fixed.crop((5, 6, 3)[: fixed.ndim], (15, 14, 12)[: fixed.ndim]),
    "wider": lambda fixed, other: fixed.pad((2,) * fixed.ndim, (3,) * fixed.ndim),
    "one voxel thick": lambda fixed, other: fixed.crop((0, 0, 3)[: fixed.ndim], (21, 18, 4)[: fixed.ndim]),
    "other axes": lambda fixed, other: other,
    "far away": lambda fixed, other: Grid(
        fixed.shape, np.where(np.eye(fixed.ndim + 1, k=fixed.ndim) > 0, fixed.affine + 1e3, fixed.affine)
    ),
}


@pytest.mark.parametrize("where", FIELDS)
@pytest.mark.parametrize("kind", ["field", "chain", "affine last", "two fields"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_total_displacement(ndim, kind, where, fixed_grid, moving_grid, flat_grid, make_transform, monkeypatch):
    fixed = fixed_grid if ndim == 3 else flat_grid
    moving = moving_grid if ndim == 3 else flat_grid.with_spacing((1.1, 0.9))
    affine, field = make_transform(fixed, field_grid=FIELDS[where](fixed, moving)).parts
    parts = {"field": [field], "chain": [affine, field], "affine last": [field, affine], "two fields": [field, affine, field]}
    transform = Composite(parts[kind])
    monkeypatch.setattr("regkit.geometry.displacement._SLAB_VOXELS", 1500)  # several slabs
    total = total_displacement(transform, fixed, moving, dtype=torch.float64)[0].numpy()
    index = np.stack(np.meshgrid(*map(np.arange, fixed.shape), indexing="ij"), -1).reshape(-1, ndim)
    expected = moving.to_index(transform.apply(fixed.to_world(index))) - index
    # A voxel that lies within rounding of a field's outer edge may fall on either side of it.
    ground = field.grid.to_index(fixed.to_world(index))
    clear = (np.abs(np.abs(ground - (np.array(field.grid.shape) - 1) / 2) - np.array(field.grid.shape) / 2) > 1e-3).all(axis=1)
    assert clear.mean() > 0.8
    difference = np.abs(total.reshape(ndim, -1).T - expected)[clear]
    assert difference.max() < 1e-4
    single = total_displacement(transform, fixed, moving)
    assert single.dtype == torch.float32 and single.shape == (1, ndim, *fixed.shape) and single.is_contiguous()
    assert np.abs(single[0].numpy().reshape(ndim, -1).T - expected)[clear].max() < 1e-3


def test_identity_between_worlds(fixed_grid, moving_grid):
    total = total_displacement(None, fixed_grid, moving_grid)[0].numpy()
    at = (7, 20, 3)
    expected = moving_grid.to_index(fixed_grid.to_world([at]))[0] - at
    np.testing.assert_allclose(total[(slice(None), *at)], expected, atol=1e-4)
    assert np.abs(total_displacement(None, fixed_grid, fixed_grid).numpy()).max() < 1e-4


def test_aligned_lookup_needs_no_warp(fixed_grid, moving_grid, make_transform, monkeypatch):
    monkeypatch.setattr(ops, "warp", None)
    total_displacement(make_transform(fixed_grid), fixed_grid, moving_grid)


def test_total_displacement_leaves_the_field_alone(fixed_grid, moving_grid, make_transform):
    affine, field = make_transform(fixed_grid, field_grid=fixed_grid).parts
    before = field.vectors.copy()
    for chain in ([field], [affine, field], [field, field]):
        total_displacement(Composite(chain), fixed_grid, moving_grid)
        np.testing.assert_array_equal(field.vectors, before)


def test_as_displacement_field(fixed_grid, make_transform):
    transform = make_transform(fixed_grid)
    field = as_displacement_field(transform, fixed_grid)
    centres = fixed_grid.to_world(np.argwhere(np.ones(fixed_grid.shape)))
    np.testing.assert_allclose(field.apply(centres), transform.apply(centres), atol=1e-3)


def test_errors(fixed_grid, flat_grid):
    with pytest.raises(InputError, match="singular"):
        Affine(np.diag([1.0, 0, 1, 1]))
    with pytest.raises(InputError, match="last row"):
        Affine(np.ones((4, 4)))
    with pytest.raises(InputError, match="vectors of shape"):
        DisplacementField(fixed_grid, np.zeros((*fixed_grid.shape, 3)))
    bad = np.zeros((3, *fixed_grid.shape), np.float32)
    bad[0, 1, 2, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        DisplacementField(fixed_grid, bad)
    with pytest.raises(InputError, match="at least one"):
        Composite([])
    with pytest.raises(InputError, match="one dimension"):
        Affine.identity(2) @ Affine.identity(3)
    with pytest.raises(InputError, match=r"\(N, 3\)"):
        Affine.identity(3).apply(np.zeros((5, 2)))
    with pytest.raises(InputError, match="dimensions differ"):
        total_displacement(Affine.identity(2), fixed_grid, fixed_grid)
    with pytest.raises(InputError, match="dimensions differ"):
        total_displacement(None, fixed_grid, flat_grid)
