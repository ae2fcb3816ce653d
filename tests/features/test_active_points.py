"""Active points: the probabilities are the formula, add up to what is wanted, and take far motion more often than even draws do."""

import pytest
import torch

from regkit.features.active_points import active_points, equalised, importance, probabilities


@pytest.fixture
def weight() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(1, 1, 20, 21, 22, generator=generator)
    return torch.where(weight < 0.3, 0.0, weight)


@pytest.mark.parametrize("count", [1, 100, 3000])
def test_probabilities_add_up(weight, count):
    found = probabilities(weight, count)
    assert float(found.sum()) == pytest.approx(count, rel=1e-6)
    assert (found[weight == 0] == 0).all() and found.max() <= 1
    # exp(-omega / weight) with one omega for all: log P times the weight is a constant
    omega = -(found[weight > 0].log() * weight[weight > 0].double())
    torch.testing.assert_close(omega, omega.mean().expand_as(omega), rtol=1e-6, atol=1e-9)


def test_more_points_than_there_are(weight):
    places = int((weight > 0).sum())
    assert float(probabilities(weight, places + 5).sum()) == places
    assert float(probabilities(torch.zeros(1, 1, 4, 4), 5).sum()) == 0


def test_drawn_points(weight):
    points = active_points(weight, 500, torch.Generator().manual_seed(1))
    assert points.shape[1] == 3 and points.dtype == torch.int64 and abs(len(points) - 500) < 5 * 500**0.5
    assert (weight[0, 0][tuple(points.T)] > 0).all()
    again = active_points(weight, 500, torch.Generator().manual_seed(1))
    assert torch.equal(points, again)


def test_large_motion_is_drawn_more_often():
    u = torch.zeros(1, 2, 64, 64)
    u[0, 0] = torch.linspace(0, 8, 64)[:, None]  # voxels; beyond 7 there are some
    even = torch.ones(1, 1, 64, 64)
    weight = equalised(u, even, longest=7.0)
    assert (weight[u.norm(dim=1, keepdim=True) > 7] == 0).all() and (weight[0, 0, 0] == 0).all()
    chances = probabilities(weight, 300)[0, 0, :, 0]
    moved = u[0, 0, :, 0]
    assert (chances[(moved > 0) & (moved <= 7)].diff() > 0).all()
    full = equalised(u, even, longest=7.0, saturate=True)
    assert (full[u.norm(dim=1, keepdim=True) > 7] == 1).all()


def test_importance_is_the_slope_within_the_mask():
    image = torch.zeros(1, 1, 10, 12)
    image[..., 6:] = 1.0
    image[:, :, :3] *= 0.5
    mask = torch.ones_like(image)
    mask[..., :5, :] = 0
    found = importance(image, mask)
    assert found.max() == 1 and (found[..., :5, :] == 0).all() and (found[..., 5:, :4] == 0).all()
    assert (importance(torch.ones(1, 1, 4, 4)) == 0).all()
