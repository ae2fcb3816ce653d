"""AC-RegNet is the published network: as many numbers as in the authors' checkpoint, its field normalised as theirs."""

import pytest
import torch

from regkit import ops
from regkit.models import ACRegNet
from tests.models.pairs import pair


def test_parameters_are_as_many_as_in_the_authors_checkpoint():
    """1,959,968 bytes of float32, the running means and variances of the batch normalisation with them."""
    network = ACRegNet()
    assert sum(p.numel() for p in network.parameters()) == 488_356
    assert 4 * sum(t.numel() for t in network.state_dict().values() if t.is_floating_point()) == 1_959_968


def test_convolutions_start_as_published():
    torch.manual_seed(0)
    weights = torch.cat([p.detach().flatten() for p in ACRegNet().parameters() if p.dim() == 4])
    assert float(weights.abs().max()) <= 0.02
    assert float(weights.std()) == pytest.approx(0.0088, abs=2e-4)  # of a normal distribution of 0.01 cut off at 2 sigma


@pytest.mark.parametrize("size", [(16, 24), (8, 16, 8)])
def test_an_untrained_field_is_normalised_in_training_and_still_in_evaluation(size):
    torch.manual_seed(0)
    network, (fixed, moving) = ACRegNet(dims=len(size)), pair(size, batch=4)
    u = network(fixed, moving).detach()
    assert u.shape == (4, len(size), *size)
    for component in u.transpose(0, 1):
        assert float(component.std()) == pytest.approx(1, abs=0.02) and abs(float(component.mean())) < 1e-4
    with torch.no_grad():
        still = network.eval()(fixed, moving)
        torch.testing.assert_close(network(fixed[:1], moving[:1]), still[:1], rtol=1e-4, atol=1e-8)


def test_every_parameter_learns():
    fixed, moving = pair((16, 16), batch=2)
    network = ACRegNet()
    (ops.warp(moving, network(fixed, moving)) - fixed).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("channels_last", [False, True])
def test_bfloat16_stays_close(channels_last):
    fixed, moving = pair((32, 32), batch=4)
    torch.manual_seed(0)
    network = ACRegNet(dropout=0.0)
    with torch.no_grad():
        want = network(fixed, moving)
        if channels_last:
            network = network.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            got = network(fixed, moving)
    assert got.dtype == torch.float32
    assert float((got - want).square().mean().sqrt()) < 0.1  # of fields of 1 voxel, after 14 layers of 8 bits


def test_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="multiples of 8"):
        ACRegNet()(*pair((16, 12)))
