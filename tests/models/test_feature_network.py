import pytest
import torch

from regkit.models import FeatureNetwork
from regkit.models.networks import registering


@pytest.mark.parametrize(("size", "features"), [((24, 21), 4), ((16, 19, 23), 12)], ids=str)
def test_features_at_every_second_voxel(size, features):
    torch.manual_seed(0)
    network = FeatureNetwork(4, len(size))
    found = network(torch.rand(2, 1, *size))
    assert found.shape == (2, features, *(n // 2 for n in size)) and found.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.rand(2, 1, *size)).dtype == torch.float32


def test_parameters():
    assert sum(p.numel() for p in FeatureNetwork().parameters()) == 318_860


def test_the_sight_of_a_feature():
    """Feature k lies at voxels 2 k and 2 k + 1, give or take what an untrained network prefers, and does not see far voxels."""
    torch.manual_seed(0)
    network, image = FeatureNetwork(4), torch.rand(1, 1, 64, 16, 16)
    changed = image.clone()
    changed[..., 4:6, :, :] += 0.5
    difference = (network(changed) - network(image)).abs().amax((0, 1, 3, 4))
    assert difference.argmax() in (1, 2, 3) and difference[28:].max() == 0


def test_a_part_has_the_features_of_the_whole():
    """Of a scan that is cut off at a multiple of 8, all but what lies near the cut."""
    torch.manual_seed(0)
    network, image = FeatureNetwork(4, 2), torch.rand(1, 1, 64, 128)
    whole, part = network(image)[..., :32], network(image[..., :64])
    torch.testing.assert_close(whole[..., :8], part[..., :8])


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="channels must be at least 1"):
        FeatureNetwork(0)
    with pytest.raises(ValueError, match=r"must be \(B, 1, 3 axes\)"):
        FeatureNetwork()(torch.rand(1, 1, 16, 16))
    assert "feature-network" not in registering()
