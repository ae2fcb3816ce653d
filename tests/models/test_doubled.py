import pytest
import torch

from regkit.models.doubled import channels_last, doubled_convolution, on_coarse_grid
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
        for form in (on_coarse_grid, doubled_convolution):
            torch.testing.assert_close(form(convolution, coarse, fine), plainly(convolution, coarse, fine))
    towards = torch.randn_like(plainly(convolution, coarse, fine))
    leaves = [coarse, fine, convolution.weight, convolution.bias]
    got, want = (torch.autograd.grad(f(convolution, coarse, fine), leaves, towards) for f in (on_coarse_grid, plainly))
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


def test_the_form_follows_the_type(monkeypatch):
    """Of 3^D voxels the coarse grid's form is taken in bfloat16 alone, of 1^D always."""
    taken = []
    monkeypatch.setattr("regkit.models.doubled.on_coarse_grid", lambda *given: taken.append(given) or on_coarse_grid(*given))
    coarse, fine = inputs((2, 3, 4), torch.float32)
    wide, narrow = CONVOLUTION[3](8, 4, 3, 1, 1), CONVOLUTION[3](8, 4, 1)
    doubled_convolution(wide, coarse, fine)
    assert not taken
    doubled_convolution(narrow, coarse, fine)
    assert len(taken) == 1
    with torch.autocast("cpu", torch.bfloat16):
        doubled_convolution(wide, coarse, fine)
    doubled_convolution(wide.bfloat16(), coarse.bfloat16(), fine.bfloat16())
    assert len(taken) == 3
