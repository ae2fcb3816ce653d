"""The auto-encoder of label maps: size, what it computes, what it learns, what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from regkit.losses import one_hot
from regkit.models import LabelAutoencoder
from tests.models.pairs import pair
from tests.ops.compare import assert_close


def network(**options) -> LabelAutoencoder:
    torch.manual_seed(0)
    return LabelAutoencoder(**{"size": 32, "code": 5} | options)


def maps(size: int = 32, batch: int = 2) -> torch.Tensor:
    return one_hot((pair((size, size), batch)[0] > 0.5).long(), 1)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 40_533),
        ({"classes": 4}, 40_533 + 2 * 144 + 2 * 145),
        ({"size": 32}, 40_533 - 48 * 32 - 48 * 33),
        ({"code": 8}, 40_533 - 24 * 129),
    ],
)
def test_parameters(options, count):
    assert sum(p.numel() for p in LabelAutoencoder(**options).parameters()) == count


def test_it_is_the_published_network():
    """In torch's functions and float64, layer by layer, with batch norms and weights that matter."""
    net = network().eval()
    for module in net.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.bias, 0.2, 0.2)
        elif isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, 0, (2 / module.weight[0].numel()) ** 0.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    layers = [[m.double() for m in net.modules() if isinstance(m, kind)] for kind in (torch.nn.Conv2d, torch.nn.BatchNorm2d)]

    def layer(x, n, stride=1):
        convolution, norm = layers[0][n], layers[1][n]
        x = F.conv2d(x, convolution.weight, convolution.bias, stride, 1)
        return F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))

    def doubled(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    x = maps().double()
    for n, (channels, stride) in enumerate([(16, 2), (16, 1), (32, 2), (32, 1), (1, 2)]):
        x = layer(x, n, stride)
        assert x.shape[1] == channels
    net.double()
    code = x.reshape(2, 16) @ net.to_code.weight.T + net.to_code.bias
    back = net.from_code[0]
    x = F.relu(code @ back.weight.T + back.bias).reshape(2, 1, 4, 4)
    for n, up in ((5, True), (6, False), (7, True), (8, False), (9, True)):
        x = layer(doubled(x) if up else x, n)
    wanted = F.conv2d(x, layers[0][10].weight, layers[0][10].bias, padding=1)
    net.float()
    with torch.no_grad():
        assert_close("code", net.encode(maps()), code, 1e-5)
        assert_close("logits", net(maps()), wanted, 1e-5)
    assert wanted.std() > 0.01


def test_a_new_network_has_the_published_weights():
    """Normal with deviation 0.01, cut at two of them, which leaves 0.0088; linear layers uniform within sqrt(6 / (inputs + outputs))."""
    net = network(size=64, code=32)
    assert net.encoder[9].weight.std().item() == pytest.approx(0.0088, rel=0.03)
    assert net.encoder[9].weight.abs().max() <= 0.02 and not net.encoder[9].bias.any()
    reach = (6 / 96) ** 0.5
    assert 0.95 * reach < net.to_code.weight.abs().max() <= reach and not net.to_code.bias.any()


def test_every_parameter_learns():
    """But for the biases in front of a batch norm, which takes them away."""
    net = network()
    F.cross_entropy(net(maps(batch=4)), maps(batch=4).argmax(1)).backward()
    idle = {id(c.bias) for c in net.modules() if isinstance(c, torch.nn.Conv2d)} - {id(net.decoder[-1].bias)}
    assert len(idle) == 10
    assert all(p.grad.isfinite().all() and (p.grad.any() or id(p) in idle) for p in net.parameters())


def test_the_distance_of_codes_leads_to_the_maps():
    """Frozen, the distance of codes has a gradient by the map: what the registration learns from."""
    net = network().eval().requires_grad_(False)
    first, second = maps().split(1)
    second = second.clone().requires_grad_()
    distance = (net.encode(first) - net.encode(second)).square().sum()
    distance.backward()
    assert distance > 0 and second.grad.isfinite().all() and second.grad.any()


@pytest.mark.parametrize("training", [True, False])
def test_a_seed_gives_the_same_bits(training):
    first, second = (network().train(training)(maps()) for _ in range(2))
    assert torch.equal(first, second)


def test_bfloat16_and_channels_last_stay_close():
    net = network().train()
    for _ in range(20):  # else the answer is hardly more than its bias
        net(maps(batch=8))
    net.eval()
    with torch.no_grad():
        wanted = net(maps())
        net, given = net.to(memory_format=torch.channels_last), maps().to(memory_format=torch.channels_last)
        again = net(given)
        with torch.autocast("cpu", torch.bfloat16):
            halves, code = net(given), net.encode(given)
    assert halves.dtype == code.dtype == torch.float32
    assert_close("channels last", again, wanted, 1e-4)
    assert_close("bfloat16", halves, wanted, 0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 1}, "classes must be at least 2"),
        ({"code": 0}, "code at least 1"),
        ({"size": 40}, "multiple of 16, but came as 40"),
        ({"size": 0}, "multiple of 16"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LabelAutoencoder(**options)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 2, 32, 48), (1, 2, 64, 64), (2, 32, 32)])
def test_wrong_maps_are_refused(shape):
    with pytest.raises(ValueError, match=r"maps must be \(B, 2, 32, 32\), but came as"):
        network()(torch.zeros(shape))
