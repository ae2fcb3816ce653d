"""The CNN of Cao et al.: its size, its range, that it learns a shift, and what it refuses."""

import pytest
import torch

from regkit.models.similarity_cnn import SimilarityCNN


def test_parameters():
    network = SimilarityCNN()
    assert sum(p.numel() for p in network.convolve.parameters()) == 14_057_472
    assert sum(p.numel() for p in network.parameters()) == 14_584_323


def patches(count: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(count, channels, 27, 27, 27, generator=generator) for channels in (1, 1, 4))


def test_displacements_are_within_the_longest_and_every_parameter_learns():
    torch.manual_seed(0)
    network = SimilarityCNN(longest=5.0)
    found = network(*patches(2))
    assert found.shape == (2, 3) and found.abs().max() < 5
    found.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in network.parameters())


def test_features_come_down_to_one_voxel_alone():
    """A patch of another size would not: the last convolution needs three voxels."""
    network = SimilarityCNN(maps=0)
    one, two = (torch.rand(1, 1, 27, 27, 27) for _ in range(2))
    assert network(one, two, torch.empty(1, 0, 27, 27, 27)).shape == (1, 3)
    with pytest.raises(ValueError, match="27, 27, 27"):
        network(one[..., :25], two[..., :25], torch.empty(1, 0, 27, 27, 25))


@pytest.mark.parametrize("wrong", [{"maps": -1}, {"longest": 0.0}])
def test_mistakes_are_told(wrong):
    with pytest.raises(ValueError, match="at least 0"):
        SimilarityCNN(**wrong)
