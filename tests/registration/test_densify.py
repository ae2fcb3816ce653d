"""From scattered displacements to dense fields."""

import pytest
import torch

from regkit.registration.densify import splat, thin_plate_spline


@pytest.fixture(params=[(40, 36), (26, 24, 22)])
def scattered(request, generator):
    spatial = request.param
    points = torch.cartesian_prod(*[torch.arange(0, n, 4) for n in spatial]).float()
    return spatial, points[torch.randperm(len(points), generator=generator)[:60]]


def at(field, points):
    return field[(0, slice(None), *points.long().T)].T


def test_spline_goes_through_its_points(scattered, generator):
    spatial, points = scattered
    values = torch.randn(len(points), len(spatial), generator=generator)
    field = thin_plate_spline(points, values, spatial, smoothing=0.0, step=4)
    torch.testing.assert_close(at(field, points), values, atol=2e-3, rtol=0)
    smooth = thin_plate_spline(points, values, spatial, smoothing=1.0, step=4)
    assert (at(smooth, points) - values).norm() > 0.1 * values.norm()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_spline_of_an_affine_is_the_affine_everywhere(scattered, generator, smoothing):
    spatial, points = scattered
    dims = len(spatial)
    matrix, shift = torch.randn(dims, dims, generator=generator) * 0.1, torch.randn(dims, generator=generator)
    field = thin_plate_spline(points, points @ matrix.T + shift, spatial, smoothing=smoothing, step=3)
    index = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in spatial], indexing="ij"), -1)
    inner = tuple(slice(0, (n - 1) // 3 * 3 + 1) for n in spatial)
    torch.testing.assert_close(field[0].movedim(0, -1)[inner], (index @ matrix.T + shift)[inner], atol=2e-3, rtol=0)


def test_splat_of_a_constant_is_constant_near_its_points(scattered):
    spatial, points = scattered
    value = torch.arange(1.0, len(spatial) + 1)
    field = splat(points, value.expand(len(points), -1), spatial, step=4)
    assert field.shape == (1, len(spatial), *spatial)
    torch.testing.assert_close(at(field, points), value.expand(len(points), -1), atol=0, rtol=0.02)


def test_splat_fades_far_from_all_points():
    field = splat(torch.tensor([[2.0, 2.0]]), torch.tensor([[5.0, -5.0]]), (200, 12), step=4)
    assert field[0, 0, 2, 2] > 4.5 and field[0, :, 150:].abs().max() < 0.01


def test_points_on_the_last_voxel():
    for spatial in ((13, 12), (7, 5, 6)):
        last = torch.tensor(spatial).float()[None] - 1
        assert splat(last, torch.ones(1, len(spatial)), spatial).isfinite().all()
