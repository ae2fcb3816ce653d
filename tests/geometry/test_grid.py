"""Grid: index to world and back, boxes, and the errors of broken headers."""

import numpy as np
import pytest

from regkit.errors import InputError
from regkit.geometry import Grid


def box(grid: Grid) -> np.ndarray:
    """World points of the box's corners, voxel edges."""
    ends = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.shape], indexing="ij")).reshape(grid.ndim, -1).T
    return grid.to_world(ends)


def test_world_and_back(fixed_grid):
    index = np.random.default_rng(0).uniform(-5, 30, (50, 3))
    world = fixed_grid.to_world(index)
    np.testing.assert_allclose(world[7], (fixed_grid.affine @ [*index[7], 1])[:3])
    np.testing.assert_allclose(fixed_grid.to_index(world), index, atol=1e-10)


def test_spacing_and_directions(fixed_grid):
    np.testing.assert_allclose(fixed_grid.spacing, (1.3, 0.9, 2.1))
    np.testing.assert_allclose(fixed_grid.directions.T @ fixed_grid.directions, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(fixed_grid.voxel_volume_mm3, 1.3 * 0.9 * 2.1)
    np.testing.assert_allclose(fixed_grid.volume_mm3, 1.3 * 0.9 * 2.1 * 21 * 26 * 17)


def test_orientation(flat_grid):
    assert Grid((4, 5, 6), np.diag([-1.0, -2, 3, 1])).orientation == "LPS"
    assert Grid((4, 5, 6), np.array([[0, 0, 2, 5], [-1, 0, 0, 7], [0, 3, 0, 1], [0, 0, 0, 1.0]])).orientation == "PSR"
    assert flat_grid.orientation == ""


def test_equality_is_by_value(fixed_grid):
    twin = Grid(list(fixed_grid.shape), fixed_grid.affine.copy())
    assert twin == fixed_grid and hash(twin) == hash(fixed_grid)
    assert Grid((2, 2), np.diag([1.0, 1, 1])) == Grid((2, 2), np.array([[1, -0.0, 0], [0, 1, 0], [0, 0, 1]]))
    shifted = fixed_grid.affine.copy()
    shifted[0, 3] += 1e-5
    assert Grid(fixed_grid.shape, shifted) != fixed_grid
    assert Grid(fixed_grid.shape, shifted).matches(fixed_grid)
    assert not Grid(fixed_grid.shape, shifted).matches(fixed_grid, tolerance_mm=1e-6)


def test_affine_cannot_change(fixed_grid):
    with pytest.raises(ValueError):
        fixed_grid.affine[0, 0] = 2


def test_crop_and_pad_stay_in_place(fixed_grid):
    part = fixed_grid.crop((2, 3, 4), (10, 26, 5))
    assert part.shape == (8, 23, 1)
    np.testing.assert_allclose(part.to_world([[1, 1, 0]]), fixed_grid.to_world([[3, 4, 4]]))
    wide = fixed_grid.pad((1, 0, 2), (3, 4, 0))
    assert wide.shape == (25, 30, 19)
    np.testing.assert_allclose(wide.to_world([[1, 0, 2]]), fixed_grid.to_world([[0, 0, 0]]))
    assert wide.crop((1, 0, 2), (22, 26, 19)).matches(fixed_grid, 1e-9)


@pytest.mark.parametrize("spacing", [2.0, (0.5, 3.0, 1.0), 100.0])
def test_with_spacing_covers_the_same_box(fixed_grid, spacing):
    grid = fixed_grid.with_spacing(spacing)
    np.testing.assert_allclose(box(grid), box(fixed_grid), atol=1e-9)
    wanted = np.maximum(1, np.round(np.array(fixed_grid.shape) * fixed_grid.spacing / np.broadcast_to(spacing, 3)))
    assert grid.shape == tuple(wanted.astype(int))


def test_overlap(fixed_grid, flat_grid):
    assert fixed_grid.overlap(fixed_grid) == 1.0
    half = fixed_grid.crop((0, 0, 0), (21, 13, 17))
    assert fixed_grid.overlap(half) == pytest.approx(0.5, abs=0.03)
    assert half.overlap(fixed_grid) == 1.0
    far = fixed_grid.affine.copy()
    far[0, 3] += 1000
    assert fixed_grid.overlap(Grid(fixed_grid.shape, far)) == 0.0
    with pytest.raises(InputError, match="3-D"):
        fixed_grid.overlap(flat_grid)


@pytest.mark.parametrize(
    ("shape", "affine", "words"),
    [
        ((4, 5), np.diag([1.0, 0, 1]), "singular"),
        ((4, 5), np.array([[1.0, 2, 0], [1, 2, 0], [0, 0, 1]]), "singular"),
        ((4, 5), np.diag([1.0, np.nan, 1]), "NaN"),
        ((4, 5), np.eye(4), "3 x 3"),
        ((4, 0), np.eye(3), "no voxels"),
        ((4,), np.eye(2), "2 or 3 axes"),
        ((4, 5), np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 2]]), "last row"),
    ],
)
def test_broken_grids(shape, affine, words):
    with pytest.raises(InputError, match=words) as caught:
        Grid(shape, affine)
    assert "\n" not in str(caught.value)


def test_crop_and_spacing_errors(fixed_grid):
    with pytest.raises(InputError, match="axis 1"):
        fixed_grid.crop((0, 5, 0), (21, 5, 17))
    with pytest.raises(InputError, match="above 0"):
        fixed_grid.with_spacing((1, 0, 1))
    with pytest.raises(InputError, match="crop"):
        fixed_grid.pad((-1, 0, 0), (0, 0, 0))
