"""smooth: against the reference, its own adjoint, keeps the mean."""

import pytest
import torch
from torch.library import opcheck

from regkit import ops
from tests.ops.compare import assert_close

SHAPES = [(5, 7, 19), (1, 4, 1), (9, 33), (1, 1), (2, 3, 64)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_against_reference(shape, dtype):
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    with ops.backend("reference"):
        want = ops.smooth(x, side=0.3)
    assert_close(
        "smooth",
        ops.smooth(x.to(dtype), side=0.3),
        want,
        {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype],
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_its_own_adjoint(shape):
    x, y = torch.randn(2, 1, 2, *shape, dtype=torch.float64).unbind()
    assert torch.allclose((ops.smooth(x) * y).sum(), (x * ops.smooth(y)).sum())
    assert torch.allclose(ops.smooth(x).mean(), x.mean())


def test_gradcheck_and_opcheck():
    x = torch.randn(1, 2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.smooth, (x,))
    opcheck(torch.ops.regkit.smooth.default, (x, 0.25))


def test_non_contiguous_empty_and_threads():
    x = torch.randn(3, 2, 6, 7, 8).permute(0, 1, 4, 2, 3)
    assert_close("smooth", ops.smooth(x), ops.smooth(x.contiguous()), 0)
    assert ops.smooth(torch.empty(0, 1, 4, 4)).shape == (0, 1, 4, 4)
    before = torch.get_num_threads()
    try:
        results = [(torch.set_num_threads(n), ops.smooth(x))[1] for n in (1, 2, 5)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], r) for r in results[1:])


def test_errors_name_what_came():
    with pytest.raises(ValueError, match="side must be between 0 and 0.5, but came as 0.6"):
        ops.smooth(torch.zeros(1, 1, 4, 4), side=0.6)
    with pytest.raises(TypeError, match="int64"):
        ops.smooth(torch.zeros(1, 1, 4, 4, dtype=torch.int64))
