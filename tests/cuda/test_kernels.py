"""CUDA kernels follow the reference: any shape, dtype, strides; the same bits whatever the order of a block's threads.

Without a GPU they run in emulation (csrc/cuda/emulation.h), which computes what the kernels say.
"""

import math

import pytest
import torch

from regkit import ops
from tests.ops.cases import NAMES, assert_same, cases, displacement, randn, reference, value_and_gradients
from tests.ops.compare import assert_close

CUDA = [name for name in NAMES if "cuda" in ops.backends._implementations[name.split()[0]]]
SHAPES = {2: (19, 70), 3: (4, 11, 67)}  # a tile is 8 x 64 voxels of a plane
ODD_SHAPES = [(1, 1), (1, 5), (3, 64), (1, 1, 1), (5, 1, 3), (4, 3, 1), (2, 2, 65)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
# The others are Triton's: see lncc_cuda.serves and warp_lncc_cuda.serves.
DTYPES = {"warp_lncc": [torch.float32], "lncc": [torch.float32, torch.float16, torch.bfloat16]}
FOLLOWS = [(name, dtype) for name in CUDA for dtype in DTYPES.get(name.split()[0], TOLERANCE)]


def by_cuda(function, tensors):
    with ops.backend("cuda"):
        return [r.cpu() for r in value_and_gradients(function, tensors)]


def by_reference(case):
    return [r.cpu() for r in reference(case.function, case.tensors)]


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize(("name", "dtype"), FOLLOWS, ids=str)
def test_follows_reference(name, dims, dtype, device):
    case = cases(SHAPES[dims], dtype=dtype, device=device)[name]
    got = by_cuda(case.function, case.tensors)
    assert_same(name, got, by_reference(case), TOLERANCE[dtype])
    assert [g.dtype for g in got[1:]] == [t.dtype for t in case.tensors]


@pytest.mark.parametrize("spatial", ODD_SHAPES, ids=str)
@pytest.mark.parametrize("name", CUDA)
def test_any_shape(name, spatial, device):
    case = cases(spatial, dtype=torch.float32, device=device)[name]
    got, want = by_cuda(case.function, case.tensors), by_reference(case)
    if "lncc" not in name:
        assert_same(name, got, want, 2e-5)
        return
    # A voxel among zeros correlates perfectly with any other: its gradient is what rounding leaves of 0.
    assert_same(name, got[:1], want[:1], 2e-5)
    if math.prod(spatial) > 1:
        assert_same(name, got, want, 5e-3)


@pytest.mark.parametrize("dims", SHAPES)
def test_gradient_of_an_image_in_fixed_point(dims, device):
    """Deterministic mode: large displacements leave the block's box, the small ones do not; NaN makes all NaN."""
    image, u = randn(2, 2, *SHAPES[dims], dtype=torch.float32), displacement(SHAPES[dims], dtype=torch.float32, size=4.0)
    g = randn(2, 2, *SHAPES[dims], seed=1, dtype=torch.float32)
    with ops.backend("reference"):
        want = torch.ops.regkit.warp_backward(g, image, u, 0, 0.0, True, False)[0]
    torch.use_deterministic_algorithms(True)
    try:
        with ops.backend("cuda"):
            got = [
                torch.ops.regkit.warp_backward(*(t.to(device) for t in (g, image, x)), 0, 0.0, True, False)[0].cpu() for x in (u, u, u / 0)
            ]
    finally:
        torch.use_deterministic_algorithms(False)
    assert_close("gradient of the image", got[0], want, 1e-5)  # 20 bits below the largest gradient of a block
    assert torch.equal(got[0], got[1])
    assert got[2].isnan().all()


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("name", CUDA)
def test_no_barrier_is_missing(name, dims, device, monkeypatch):
    """Emulated threads of a block run one after another between barriers: whatever the order, the bits are the same."""
    if device == "cuda":
        pytest.skip("a GPU has an order of its own; compute-sanitizer's racecheck is for that (make gpu-sanitize)")
    case, results = cases(SHAPES[dims], batch=1, dtype=torch.float32)[name], []
    for order in ("forward", "backward", "shuffled"):
        monkeypatch.setenv("REGKIT_EMULATED_ORDER", order)
        results.append(by_cuda(case.function, case.tensors))
    for result in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(result, results[0]))
