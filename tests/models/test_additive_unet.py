"""The additive U-Net: its doubling convolution is one on the doubled grid, levels have their sizes, sums are as published."""

import pytest
import torch
import torch.nn.functional as F

from regkit.models.additive_unet import AdditiveUNet, Doubling


@pytest.mark.parametrize("size", [(5, 6), (3, 4, 5), (1, 2)])
def test_doubling_is_a_convolution_of_the_grid_with_every_voxel_repeated(size):
    torch.manual_seed(0)
    network = Doubling(3, 4, len(size)).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    results = []
    for y in (network(x), network.convolution(F.interpolate(x, scale_factor=2, mode="nearest"))):
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, network.convolution.weight])])
    for got, want in zip(*results):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11 * float(want.detach().abs().max()))


def test_features_are_those_of_the_published_sums():
    """Written out for two levels: the skip is normalised, not activated; the sum is."""
    torch.manual_seed(0)
    network, x = AdditiveUNet(2, (3, 5), 2), torch.rand(2, 2, 4, 6)

    def layer(x, parts, activate=True):
        y = F.batch_norm(F.conv2d(x, parts[0].weight, padding=1), None, None, training=True)
        return F.elu(y) if activate else y

    with torch.no_grad():
        coarse, fine = network(x)
        skip = layer(layer(x, network.down[0][0]), network.down[0][1], activate=False)
        low = layer(layer(F.avg_pool2d(F.elu(skip), 2), network.down[1][0]), network.down[1][1])
        up = layer(low.repeat_interleave(2, 2).repeat_interleave(2, 3), [network.across[0][0].convolution], activate=False)
        high = layer(layer(F.elu(up + skip), network.up[0][0]), network.up[0][1])
    torch.testing.assert_close(coarse, low, rtol=0, atol=1e-5)
    torch.testing.assert_close(fine, high, rtol=0, atol=1e-5)


def test_dropout_is_of_what_goes_up_in_training():
    torch.manual_seed(0)
    network, x = AdditiveUNet(1, (2, 4), 2, dropout=0.5), torch.rand(2, 1, 8, 8)
    first, second = network(x), network(x)
    assert torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])
    network.eval()
    assert torch.equal(network(x)[1], network(x)[1])


@pytest.mark.parametrize(
    ("options", "message"), [({"channels": (4,)}, "two numbers"), ({"dropout": 1.0}, "dropout"), ({"dims": 4}, "dims")]
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        AdditiveUNet(**{"inputs": 2, "channels": (2, 4), "dims": 2, **options})
