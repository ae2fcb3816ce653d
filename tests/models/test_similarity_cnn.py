"""The CNN of Cao et al.: its size, its range, that it learns a shift, and what it refuses."""

import pytest
import torch

from regkit.models.similarity_cnn import SimilarityCNN


@pytest.mark.parametrize("patch", [19, 23, 27, 31])
def test_parameters(patch):
    network = SimilarityCNN(patch=patch)
    assert sum(p.numel() for p in network.convolve.parameters()) == 14_057_472
    assert sum(p.numel() for p in network.parameters()) == 14_584_323
    assert [layer.out_channels for layer in SimilarityCNN(width=0.125, patch=patch).convolve] == [8, 8, 16, 16, 32, 32, 64, 64]


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


@pytest.mark.parametrize("patch", [19, 23, 27, 31])
def test_features_come_down_to_one_voxel_alone(patch):
    """A patch of another size would not: the last convolution, or the pooling after it, has just the voxels that it needs."""
    network = SimilarityCNN(maps=0, width=0.05, patch=patch)
    one, two, none = (torch.rand(1, channels, patch, patch, patch) for channels in (1, 1, 0))
    seen = []
    network.convolve[-1].register_forward_hook(lambda layer, given, result: seen.append(result.shape[2:]))
    assert network(one, two, none).shape == (1, 3)
    assert tuple(seen[0]) == ((3, 3, 3) if patch == 19 else (1, 1, 1))
    with pytest.raises(ValueError, match=f"{patch}, {patch}, {patch}"):
        network(one[..., :-2], two[..., :-2], none[..., :-2])


def test_the_first_answer_is_small_and_not_the_same_everywhere():
    """He's weights keep the signal up through eleven layers; the last layer's are small, so that the tanh is not saturated."""
    torch.manual_seed(0)
    network = SimilarityCNN(width=0.125, longest=7.0, patch=19)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        found = network(*(torch.rand(6, channels, 19, 19, 19, generator=generator) for channels in (1, 1, 4)))
    assert 1e-4 < found.std(0).max() and found.abs().max() < 3.5


@pytest.mark.parametrize("wrong", [{"maps": -1}, {"longest": 0.0}, {"width": 0.0}])
def test_mistakes_are_told(wrong):
    with pytest.raises(ValueError, match="at least 0"):
        SimilarityCNN(**wrong)


def test_a_patch_of_another_size():
    with pytest.raises(ValueError, match="one of 19, 23, 27, 31, but came as 25"):
        SimilarityCNN(patch=25)
