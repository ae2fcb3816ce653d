import pytest
import torch

from regkit.models.doubled import channels_last, doubled_convolution
from regkit.models.layers import CONVOLUTION


def plainly(convolution, coarse, fine):
    for axis in range(2, coarse.dim()):
        coarse = coarse.repeat_interleave(2, axis)
    return convolution(torch.cat([coarse, fine], 1))


def inputs(size, dtype=torch.float64):
    torch.manual_seed(0)
    coarse = channels_last(torch.randn(2, 5, *size, dtype=dtype)).requires_grad_()
    fine = channels_last(torch.randn(2, 3, *(2 * n for n in size), dtype=dtype)).requires_grad_()
    return coarse, fine


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (1, 2, 3), (4, 3, 5)], ids=str)
def test_as_on_the_doubled_grid(kernel, size):
    convolution = CONVOLUTION[len(size)](8, 4, kernel, 1, kernel // 2).double()
    coarse, fine = inputs(size)
    with torch.no_grad():
        torch.testing.assert_close(doubled_convolution(convolution, coarse, fine), plainly(convolution, coarse, fine))
    towards = torch.randn_like(plainly(convolution, coarse, fine))
    leaves = [coarse, fine, convolution.weight, convolution.bias]
    got, want = (torch.autograd.grad(f(convolution, coarse, fine), leaves, towards) for f in (doubled_convolution, plainly))
    for one, other in zip(got, want):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("size", [(3, 4), (2, 3, 4), (6, 5, 7)], ids=str)
def test_bfloat16_under_autocast_is_near_float32(size):
    convolution = CONVOLUTION[len(size)](8, 4, 3, 1, 1)
    coarse, fine = inputs(size, torch.float32)
    leaves = [coarse, fine, convolution.weight, convolution.bias]
    want = plainly(convolution, coarse, fine)
    towards = torch.randn_like(want)
    with torch.autocast("cpu", torch.bfloat16):
        got = doubled_convolution(convolution, coarse, fine)
    assert got.dtype == torch.bfloat16 and (got.float() - want).norm() < 0.01 * want.norm()
    for one, other in zip(torch.autograd.grad(got.float(), leaves, towards), torch.autograd.grad(want, leaves, towards)):
        assert (one - other).norm() < 0.01 * other.norm()


def test_channels_lie_side_by_side():
    coarse, fine = inputs((2, 3, 4), torch.float32)
    out = doubled_convolution(CONVOLUTION[3](8, 4, 3, 1, 1), coarse, fine)
    assert all(x.stride(1) == 1 for x in (coarse, fine, out))
