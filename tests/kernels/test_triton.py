"""Triton kernels follow the reference: any shape, dtype, strides; one gradient alone; the same bits in deterministic mode.

Without a GPU they run in Triton's interpreter, which computes what the kernels say, slowly: shapes are small.
"""

import re

import pytest
import torch

from regkit import ops
from regkit.ops.backends import interpreted
from tests.ops.cases import NAMES, assert_same, cases, reference, value_and_gradients

pytest.importorskip("triton", reason="Triton is not installed")

DEVICE = "cpu" if interpreted() else "cuda"
pytestmark = [] if interpreted() else [pytest.mark.gpu]
TRITON = [name for name in NAMES if "triton" in ops.available(name.split()[0])]
# Those with other kernels in deterministic mode: a scatter in fixed point.
SCATTERED = [name for name in TRITON if re.match("warp|compose|integrate|correlate|expected|embed", name)]
# A tile is 8 x 32 voxels of a plane: several tiles in 2-D, several planes in 3-D, and few programs, which cost time in the interpreter.
SHAPES = {2: (9, 35), 3: (3, 5, 7)}
ODD_SHAPES = [(1, 5), (1, 1, 1), (5, 1, 3), (4, 3, 1), (2, 2, 33)]
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # float64: the other tests here


def case_of(name, spatial, batch=1, **options):
    """One batch item: the interpreter takes its time for each. What two need is in test_follows_reference."""
    return cases(spatial, batch, device=DEVICE, **options)[name]


def by_triton(function, tensors):
    with ops.backend("triton"):
        return [r.cpu() for r in value_and_gradients(function, tensors)]


def by_reference(case):
    return [r.cpu() for r in reference(case.function, case.tensors)]


# Dtype and number of axes are apart in the kernels: the halves, one in each.
@pytest.mark.parametrize(("dtype", "dims"), [(torch.float32, 2), (torch.float32, 3), (torch.float16, 2), (torch.bfloat16, 3)], ids=str)
@pytest.mark.parametrize("name", TRITON)
def test_follows_reference(name, dtype, dims):
    case = case_of(name, SHAPES[dims], batch=2 if (dtype, dims) == (torch.float32, 2) else 1, dtype=dtype)
    got = by_triton(case.function, case.tensors)
    assert_same(name, got, by_reference(case), TOLERANCE[dtype])
    assert [g.dtype for g in got[1:]] == [t.dtype for t in case.tensors]


@pytest.mark.parametrize("spatial", ODD_SHAPES, ids=str)
@pytest.mark.parametrize("name", TRITON)
def test_any_shape(name, spatial):
    case = case_of(name, spatial)
    want = by_reference(case)
    got = by_triton(case.function, case.tensors)
    if want[0].dim() == 0 and not want[0]:  # nothing varies in one voxel
        assert all(torch.equal(g, w) for g, w in zip(got, want))
    elif name == "expected_displacement" and max(spatial) == 1:  # all displacements see the same: what is left is rounding
        assert all(g.abs().max() < 1e-11 for g in got[1:])
    else:
        assert_same(name, got, want, 1e-9)


@pytest.mark.parametrize("name", TRITON)
def test_non_contiguous_inputs(name):
    case = case_of(name, SHAPES[3])
    strided = tuple(t.transpose(1, -1).contiguous().transpose(1, -1) for t in case.tensors)
    assert_same(name, by_triton(case.function, strided), by_triton(case.function, case.tensors), 1e-14)


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("name", TRITON)
def test_empty_batch(name, dims):
    case = case_of(name, SHAPES[dims], batch=0)
    got, want = by_triton(case.function, case.tensors), by_reference(case)
    assert [g.shape for g in got] == [w.shape for w in want]
    assert got[0].numel() == 0 or bool(got[0].isnan().all())


@pytest.mark.parametrize("name", TRITON)
def test_gradient_of_one_input_alone(name):
    case = case_of(name, SHAPES[3])
    both = by_triton(case.function, case.tensors)[1:]
    for wanted, gradient in enumerate(both):

        def of_one(x, wanted=wanted):
            return case.function(*(x if i == wanted else t for i, t in enumerate(case.tensors)))

        assert_same(name, by_triton(of_one, (case.tensors[wanted],))[1:], [gradient], 1e-12)


@pytest.mark.parametrize("name", SCATTERED)
def test_deterministic_mode(name):
    """The same result as otherwise, and on a GPU the same bits twice (in the interpreter nothing happens at the same time)."""
    case = case_of(name, SHAPES[3], dtype=torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        results = [by_triton(case.function, case.tensors) for _ in range(1 if interpreted() else 2)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[-1]))
    assert_same(name, results[0], by_triton(case.function, case.tensors), 2e-6)
