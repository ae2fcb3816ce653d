"""Local thin-plate splines: exact at points, the whole spline where all points are neighbours, affine motions kept."""

import pytest
import torch

from regkit.registration.local_tps import local_thin_plate_spline

SHAPES = {2: (40, 50), 3: (24, 20, 28)}


def scattered(dims: int, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, dims, generator=generator, dtype=torch.float64) * (torch.tensor(SHAPES[dims]) - 1)


def whole_spline(points: torch.Tensor, values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The thin-plate spline of all points, at places."""
    count, dims = points.shape

    def kernel(a, b):
        r = torch.cdist(a, b)
        return r if dims == 3 else r.square() * r.clamp_min(1e-12).log()

    affine = torch.cat([torch.ones(count, 1, dtype=points.dtype), points], 1)
    system = torch.zeros(count + dims + 1, count + dims + 1, dtype=points.dtype)
    system[:count, :count], system[:count, count:], system[count:, :count] = kernel(points, points), affine, affine.T
    solved = torch.linalg.solve(system, torch.cat([values, values.new_zeros(dims + 1, values.shape[1])]))
    return kernel(places, points) @ solved[:count] + solved[count] + places @ solved[count + 1 :]


@pytest.mark.parametrize("dims", SHAPES)
def test_is_the_whole_spline_where_all_points_are_neighbours(dims):
    points, generator = scattered(dims, 60), torch.Generator().manual_seed(1)
    values = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    found = local_thin_plate_spline(points, values, SHAPES[dims], neighbours=60, step=1)
    places = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in SHAPES[dims]], indexing="ij"), -1).reshape(-1, dims)
    torch.testing.assert_close(found[0].flatten(1).T, whole_spline(points, values, places), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dims", SHAPES)
def test_affine_motions_are_kept(dims):
    points = scattered(dims, 300)
    linear = torch.arange(dims * dims, dtype=torch.float64).reshape(dims, dims) / 10 - 0.3
    found = local_thin_plate_spline(points, points @ linear + 2, SHAPES[dims], neighbours=12, spacing=8, step=2)
    places = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in SHAPES[dims]], indexing="ij"), -1)
    torch.testing.assert_close(found[0].movedim(0, -1), places @ linear + 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dims", SHAPES)
def test_goes_through_points_on_voxels_and_near_them_when_smoothed(dims):
    points = scattered(dims, 400).round().unique(dim=0)
    waves = torch.sin(points / 6).sum(1, keepdim=True)
    at = tuple(points.long().T)
    exact = local_thin_plate_spline(points, waves, SHAPES[dims], neighbours=64, spacing=8, step=1)
    assert (exact[0, 0][at] - waves[:, 0]).abs().max() < 0.02  # of 2: few nodes lack a near point among their 64
    noise = 0.3 * torch.randn(len(points), 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rough, smooth = (local_thin_plate_spline(points, waves + noise, SHAPES[dims], spacing=8, smoothing=s, step=1) for s in (0.0, 1.0))
    errors = [float((field[0, 0][at] - waves[:, 0]).square().mean().sqrt()) for field in (rough, smooth)]
    assert errors[1] < 0.8 * errors[0]


def test_points_in_one_plane():
    points = scattered(3, 100)
    points[:, 0] = 5
    found = local_thin_plate_spline(points, points[:, 1:], SHAPES[3], neighbours=20)
    assert found.isfinite().all()


def test_too_few_points():
    with pytest.raises(ValueError, match="needs 4 points"):
        local_thin_plate_spline(torch.zeros(3, 3), torch.zeros(3, 1), SHAPES[3])
