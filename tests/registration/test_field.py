"""The kept transforms: an inverse that undoes the field, a field that ends without a tear, and the displacement that ITK would make of
them."""

import numpy as np
import pytest
import torch

from regkit import ops
from regkit.geometry import Affine, Grid
from regkit.registration.field import FADE, extend, invert, transforms

SHAPES = [(48, 44), (34, 30, 28)]


def waves(shape, amplitude, length) -> torch.Tensor:
    """u_d = amplitude sin(2 pi x_d / length), which stretches and squeezes by 1 +- 2 pi amplitude / length; 0 at the border."""
    index = torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij")
    fade = torch.stack([(torch.minimum(x, n - 1 - x) / 6).clamp(0, 1) for x, n in zip(index, shape)]).prod(0)
    return torch.stack([amplitude * torch.sin(2 * np.pi * x / length + d) for d, x in enumerate(index)])[None] * fade


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("amplitude", "length", "least"), [(1.0, 24.0, 0.6), (2.5, 24.0, 0.3), (3.4, 24.0, 0.02)])
def test_inverse_undoes(shape, amplitude, length, least):
    u = waves(shape, amplitude, length)
    determinant = ops.jacobian_determinant(u)
    assert 0 < determinant.min() < least + 0.2
    v = invert(u)
    # y + v(y) is where y came from: u there must lead back to y
    assert (v + ops.warp(u, v, padding="border")).norm(dim=1).max() < 0.05


def test_inverse_of_large_shifts_is_exact_inside():
    u = torch.zeros(1, 3, 30, 20, 16)
    u[:, 0], u[:, 2] = 6.0, -3.0
    torch.testing.assert_close(invert(u), -u)


def test_the_field_fades_out_beyond_its_grid():
    whole = Grid.from_spacing((60, 50, 40))
    grid = whole.crop((20, 20, 15), (36, 32, 25))
    u = torch.full((1, 3, *grid.shape), 2.0)
    wide, bigger = extend(u, grid, whole)
    at = np.rint(bigger.to_index(grid.to_world(np.zeros((1, 3))))[0]).astype(int)
    assert torch.equal(wide[(..., *(slice(a, a + n) for a, n in zip(at, grid.shape)))], u)
    assert wide[:, :, 0].abs().max() == 0 and wide[..., -1].abs().max() == 0  # it ends in 0 where there is room for it
    assert (wide.diff(dim=2).abs() <= 1 / FADE + 1e-6).all() and (ops.jacobian_determinant(wide) > 0).all()


def test_the_field_covers_what_leaves_the_scan():
    """The inverse lies on the same grid: without these voxels, points moved out of the fixed scan would not find back."""
    grid = Grid.from_spacing((30, 28, 26), 2.0)
    u = torch.zeros(1, 3, *grid.shape)
    u[:, 1] = 5.0
    wide, bigger = extend(u, grid, grid)
    forward, backward = transforms(wide, bigger, Affine.identity(3))
    points = grid.to_world(np.random.default_rng(0).uniform(0, 25, (200, 3)))
    np.testing.assert_allclose(backward.apply(forward.apply(points)), points, atol=0.01)
    assert np.prod(bigger.shape) < 2.5 * np.prod(grid.shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_transforms_undo_each_other(shape):
    dims = len(shape)
    affine = np.eye(dims + 1)
    affine[:-1] += np.random.default_rng(0).normal(0, 0.05, (dims, dims + 1)) * np.r_[np.ones(dims), 100]
    grid_affine = np.diag([*(1.3, 0.8, 2.0)[:dims], 1.0])
    grid_affine[0, 1] = 0.3  # sheared, too
    grid = Grid(shape, grid_affine)
    u, grid = extend(waves(shape, 2.0, 24.0), grid, grid)
    forward, backward = transforms(u, grid, Affine(affine))
    points = grid.to_world(np.random.default_rng(1).uniform(4, min(shape) - 5, (500, dims)))
    error = np.linalg.norm(backward.apply(forward.apply(points)) - points, axis=1)
    assert error.mean() < 0.05 and error.max() < 0.3  # linear interpolation of the inverse between its voxels
    # the order of ITK: the field moves the point first, the affine last
    moved = points + forward.parts[1].apply(points) - points
    np.testing.assert_allclose(forward.apply(points), forward.parts[0].apply(moved), atol=1e-9)
