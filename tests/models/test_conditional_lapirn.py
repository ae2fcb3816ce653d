"""Conditional LapIRN: the authors' weights give their fields; the smoothness is one number, or one a pair."""

import pytest
import torch

from regkit.models import ConditionalLapIRN, LapIRN
from tests.models import published
from tests.models.pairs import pair
from tests.ops.compare import assert_close


@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize("code", [0.0, 0.8])
@pytest.mark.parametrize("size", [(16, 24, 16), (24, 16)])
def test_the_authors_weights_give_their_fields_at_every_level(size, code, lite):
    weights = published.weights(3, 8, len(size), conditional=True, lite=lite)
    fixed, moving = pair(size)
    with torch.no_grad():
        ours = ConditionalLapIRN.from_original(weights).pyramid(fixed, moving, smoothness=code)
    theirs = published.fields(weights, moving, fixed, code=code)
    for level, (mine, want) in enumerate(zip(ours, theirs, strict=True), start=1):
        assert_close(f"level {level}", mine.displacement, published.in_voxels(want), 1e-4)


def test_a_smoothness_for_each_pair():
    fixed, moving = pair((16, 24), batch=2)
    network = ConditionalLapIRN.from_original(published.weights(2, 8, 2, conditional=True))
    with torch.no_grad():
        both = network(fixed, moving, torch.tensor([0.1, 0.9]))
        for n, code in enumerate((0.1, 0.9)):
            assert_close(f"{code}", both[n : n + 1], network(fixed[n : n + 1], moving[n : n + 1], code), 1e-5)
        assert not torch.allclose(network(fixed, moving, 0.1), network(fixed, moving, 0.9), atol=1e-2)
        assert torch.equal(network(fixed, moving), network(fixed, moving, smoothness=0.5))


def test_every_parameter_learns():
    fixed, moving = pair((16, 16, 24))
    network = ConditionalLapIRN(start_channels=1, lite=True)
    network(fixed, moving, 0.3).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert all(p.grad.any() for name, p in network.named_parameters() if "convolutions" in name or "mapping" in name)


def test_bfloat16_stays_close():
    fixed, moving = pair((16, 16, 24))
    network = ConditionalLapIRN.from_original(published.weights(2, 8, 3, conditional=True))
    with torch.no_grad():
        want = network(fixed, moving, 0.2)
        with torch.autocast("cpu", torch.bfloat16):
            got = network(fixed, moving, 0.2)
    assert got.dtype == torch.float32
    assert_close("bf16", got, want, 0.05)


@pytest.mark.parametrize("smoothness", [-0.1, 1.1, float("nan"), torch.zeros(3), torch.zeros(1, 1)])
def test_a_wrong_smoothness_is_named(smoothness):
    with pytest.raises(ValueError, match="smoothness must be"):
        ConditionalLapIRN(levels=1, start_channels=1, dims=2)(*pair((8, 8)), smoothness)


def test_an_image_without_variance_at_the_coarsest_level_is_refused():
    with pytest.raises(ValueError, match="more than 8 voxels"):
        ConditionalLapIRN(start_channels=1)(*pair((8, 8, 8)))


def test_plain_and_conditional_weights_are_not_mixed_up():
    with pytest.raises(ValueError, match="do not fit"):
        LapIRN.from_original(published.weights(2, 4, 3, conditional=True))
    with pytest.raises(ValueError, match="do not fit"):
        ConditionalLapIRN.from_original(published.weights(2, 4, 3))
