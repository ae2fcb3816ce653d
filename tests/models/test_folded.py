"""Convolutions with an axis among the channels, and maps along three axes, against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from regkit.models.folded import FoldedConv3d, along_axes, gaussian, linear


@pytest.mark.parametrize("size", [(5, 5, 5), (6, 4, 3), (1, 2, 1)], ids=str)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "bias"), [(3, 1, 1, False), (3, 2, 1, True), (1, 1, 0, True), (3, (2, 1, 2), (1, 1, 2), True)]
)
def test_as_a_convolution(size, kernel, stride, padding, bias):
    torch.manual_seed(0)
    folded = FoldedConv3d(2, 3, kernel, stride, padding, bias=bias).double()
    plain = nn.Conv3d(2, 3, kernel, stride, padding, bias=bias).double()
    plain.load_state_dict(folded.state_dict())
    x = torch.randn(4, 2, *size, dtype=torch.float64, requires_grad=True)
    got, want = folded(x), plain(x)
    torch.testing.assert_close(got, want)
    towards = torch.randn_like(want)
    for one, other in zip(
        torch.autograd.grad(got, [x, *folded.parameters()], towards), torch.autograd.grad(want, [x, *plain.parameters()], towards)
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("options", [{"groups": 2}, {"dilation": 2}, {"padding_mode": "reflect"}, {"padding": "same"}], ids=str)
def test_what_it_does_not_fold_is_told(options):
    with pytest.raises(ValueError, match="neither groups nor dilation"):
        FoldedConv3d(2, 4, 3, **options)


def test_bfloat16_under_autocast_is_near_float32():
    torch.manual_seed(0)
    folded, x = FoldedConv3d(4, 8, 3, 2, 1), torch.randn(3, 4, 7, 7, 7)
    with torch.autocast("cpu", torch.bfloat16):
        got = folded(x)
    want = folded(x)
    assert got.dtype == torch.bfloat16 and (got.float() - want).norm() < 0.01 * want.norm()


@pytest.mark.parametrize(("n", "m"), [(3, 6), (6, 11), (11, 21), (1, 2), (4, 4)])
def test_interpolation(n, m):
    torch.manual_seed(0)
    x = torch.randn(2, 3, n, n, n)
    torch.testing.assert_close(along_axes(x, lambda n: linear(n, m)), F.interpolate(x, size=[m] * 3, mode="trilinear"))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_gaussian(n):
    torch.manual_seed(0)
    taps = torch.exp(-torch.arange(-2.0, 3.0).square() / (2 * 1.5**2))
    taps = (taps / taps.sum()).reshape(1, 1, 1, 1, 5)
    x = torch.randn(2, 1, n, n, n)
    want = x
    for _ in range(3):  # along the last axis, which then becomes the first
        want = F.conv3d(F.pad(want, (2, 2, 0, 0, 0, 0), mode="replicate"), taps).permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(along_axes(x, lambda n: gaussian(n, 1.5)), want)
