"""The displacement embedding, part by part, and that it finds motion far beyond what a local optimiser can follow."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from regkit import ops
from regkit.errors import InputError
from regkit.features import laplacian_system, neighbour_graph
from regkit.registration.config import EmbeddingStage
from regkit.registration.embedding import TooFewKeypoints, cost_volumes, decode, displacements, embed, pca

STAGE = EmbeddingStage(keypoints=400, search_radius=6)


def texture(shape, generator) -> torch.Tensor:
    """Smooth random lumps in 0..1, (1, 1, *shape)."""
    noise = torch.rand([1, 1, *shape], generator=generator)
    pool = F.avg_pool3d if len(shape) == 3 else F.avg_pool2d
    for _ in range(2):
        noise = pool(noise, 5, stride=1, padding=2)
    return (noise - noise.min()) / (noise.max() - noise.min())


def test_pca_rebuilds_what_it_was_fitted_on(generator):
    cost = torch.rand(30, 200, generator=generator)
    mean, basis = pca(cost, 40)
    assert basis.shape == (200, 29)  # centred rows of 30 have 29 dimensions
    torch.testing.assert_close(basis.T @ basis, torch.eye(29), atol=1e-4, rtol=0)
    torch.testing.assert_close((cost - mean) @ basis @ basis.T + mean, cost, atol=1e-4, rtol=0)
    _, few = pca(cost, 5)
    wanted = torch.linalg.svd(cost - mean)[2][:5]
    torch.testing.assert_close(
        (few.T @ wanted.T).abs().sum(0), torch.ones(5), atol=0.05, rtol=0
    )  # the same five directions, in reverse order


def test_diffusing_the_embedding_is_diffusing_the_costs(generator):
    """PCA is linear: (I + l L)^-1 (C - mu) V = ((I + l L)^-1 C - mu) V, as constant rows pass through the diffusion unchanged."""
    points, cost = torch.rand(50, 3, generator=generator), torch.rand(50, 300, generator=generator)
    mean, basis = pca(cost, 20)
    system = laplacian_system(neighbour_graph(points, 7), 0.75).double()
    embedded = torch.linalg.solve(system, ((cost - mean) @ basis).double())
    projected = (torch.linalg.solve(system, cost.double()) - mean) @ basis.double()
    torch.testing.assert_close(embedded, projected, atol=1e-6, rtol=1e-5)


def test_search_cube_order():
    found = displacements(1, 2)
    assert found.tolist()[0] == [-1, -1] and found.tolist()[1] == [-1, 0] and found.tolist()[3] == [0, -1] and found[4].tolist() == [0, 0]


@pytest.mark.parametrize("dims", [2, 3])
def test_one_clear_minimum_is_decoded(dims, generator):
    stage = replace(STAGE, search_radius=3, diffusion=0.0, sharpness=200.0)
    steps = displacements(3, dims)
    wanted = torch.randint(0, len(steps), (12,), generator=generator)
    cost = torch.ones(12, len(steps))
    cost[torch.arange(12), wanted] = 0
    found = decode(cost, torch.rand(12, dims, generator=generator) * 20, stage, dims)
    torch.testing.assert_close(found, steps[wanted] * stage.stride, atol=0.05, rtol=0)


@pytest.mark.parametrize(("shape", "shift"), [((66, 64, 62), (10, -8, 6)), ((110, 100), (-10, 12))])
def test_cost_is_least_at_a_known_shift(shape, shift, generator):
    image = texture([n + 24 for n in shape], generator)
    fixed = image[(..., *(slice(12, 12 + n) for n in shape))].contiguous()
    moving = image[(..., *(slice(12 - s, 12 - s + n) for s, n in zip(shift, shape)))].contiguous()
    keypoints = torch.stack([torch.randint(26, n - 26, (20,), generator=generator) for n in shape], 1)
    best = displacements(STAGE.search_radius, len(shape))[cost_volumes(fixed, moving, keypoints, STAGE).argmin(1)] * STAGE.stride
    assert ((best - torch.tensor(shift)).abs().amax(1) == 0).float().mean() > 0.9


@pytest.mark.parametrize("densify", ["splat", "tps"])
def test_large_motion_is_found(densify, generator):
    shape = (64, 60, 56)
    fixed_index = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij"))
    u = torch.stack([7 + 3 * torch.sin(fixed_index[1] / 15), -6 + 2 * torch.cos(fixed_index[2] / 12), 4 + 0 * fixed_index[0]])[None]
    moving = texture(shape, generator)
    fixed = ops.warp(moving, u, padding="border")
    inside = torch.zeros(1, 1, *shape)
    inside[..., 10:-20, 16:-10, 10:-16] = 1
    found, facts = embed(fixed, moving, inside, replace(STAGE, densify=densify))
    assert found.shape == (1, 3, *shape) and facts["keypoints"] > 100
    error = (found - u).norm(dim=1)[0][inside[0, 0] > 0]
    assert u.norm(dim=1).mean() > 9 and error.mean() < 1.5


def test_too_few_keypoints():
    flat = torch.full((1, 1, 24, 24, 24), 0.5)
    with pytest.raises(TooFewKeypoints, match="only 0 distinctive points .at least 10") as caught:
        embed(flat, flat, None, STAGE)
    assert isinstance(caught.value, InputError) and "\n" not in str(caught.value)
