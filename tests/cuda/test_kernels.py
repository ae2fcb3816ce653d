"""CUDA kernels follow the reference: any shape, dtype, strides; the same bits whatever the order of a block's threads.

Without a GPU they run in emulation (csrc/cuda/emulation.h), which computes what the kernels say.
"""

import math
from functools import partial

import pytest
import torch

from regkit import ops
from regkit.ops import lncc_cuda
from tests.ops.cases import NAMES, assert_same, cases, displacement, randn, reference, value_and_gradients
from tests.ops.compare import assert_close

# A stride; and ops whose gradients are Triton's: test_search.py.
TRITONS = ["correlate_dense ssd", "correlate_keypoints", "expected_displacement", "embed_displacements"]
CUDA = [name for name in NAMES if "cuda" in ops.backends._implementations[name.split()[0]] and name not in TRITONS]
SHAPES = {2: (19, 70), 3: (4, 11, 67)}  # a tile is 8 x 64 voxels of a plane
ODD_SHAPES = [(1, 1), (1, 5), (3, 64), (1, 1, 1), (5, 1, 3), (4, 3, 1), (2, 2, 65)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
# The others are Triton's.
SINGLE = [torch.float32, torch.float16, torch.bfloat16]
DTYPES = {"warp_lncc": [torch.float32], "warp_ssd": SINGLE, "lncc": SINGLE, "integrate_velocity": SINGLE, "correlate_dense": SINGLE}
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


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "extent"])
@pytest.mark.parametrize(("spatial", "window"), [((19, 70), 9), ((40, 5, 7), 3), ((4, 18, 66), 5), ((3, 4, 5), 15)], ids=str)
def test_warp_lncc_of_one_channel(spatial, window, padding, weighted, device):
    """Its gradient goes on to the displacement in the second sweep. Several chunks along i, several tiles of 16 x 64; two sizes."""
    fixed, weight = (
        randn(2, 1, *spatial, dtype=torch.float32).to(device),
        randn(2, 1, *spatial, seed=1, dtype=torch.float32).abs().to(device),
    )
    moving = randn(2, 1, *(n + 2 for n in spatial), seed=2, dtype=torch.float32).to(device)
    u = displacement(spatial, dtype=torch.float32, size=2.0).to(device)

    def function(u):
        options = {"weight": weight.to(u)} if weighted else {}
        return ops.warp_lncc(fixed.to(u), moving.to(u), u, window=window, padding=padding, fill=0.5, **options)

    assert_same("warp_lncc", by_cuda(function, (u,)), [r.cpu() for r in reference(function, (u,))], 2e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_warp_lncc_in_groups_of_items(channels, device, monkeypatch):
    """The same bits, however many items of a batch go at once."""
    fixed, moving = (randn(3, channels, 2, 9, 11, seed=seed, dtype=torch.float32).to(device) for seed in (1, 2))
    u, weight = displacement((2, 9, 11), 3, dtype=torch.float32).to(device), randn(3, 1, 2, 9, 11, dtype=torch.float32).abs().to(device)
    results = []
    for group in (lncc_cuda.GROUP, 2 * fixed[0].numel(), 1):
        monkeypatch.setattr(lncc_cuda, "GROUP", group)
        results.append(by_cuda(lambda u: ops.warp_lncc(fixed, moving, u, window=3, weight=weight), (u,)))
    assert results[0][1].abs().max() > 0
    for result in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(result, results[0]))


@pytest.mark.parametrize("grad_last", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("dtype", SINGLE, ids=str)
@pytest.mark.parametrize(("spatial", "channels"), [((19, 37), 8), ((4, 11, 13), 12), ((1, 1), 4), ((3, 1, 2), 4)], ids=str)
def test_gradient_of_an_image_channels_last(spatial, channels, dtype, padding, grad_last, device):
    """Four channels at once; smooth displacements, of which voxels share cells with the one above, and rough ones; NaN and infinity too."""
    last = {"memory_format": torch.channels_last if len(spatial) == 2 else torch.channels_last_3d}
    image = randn(2, channels, *(n + 1 for n in spatial), dtype=dtype).to(**last)
    g = randn(2, channels, *spatial, seed=1, dtype=dtype)
    g[0, 0].view(-1)[0], g[1, -1].view(-1)[-1] = math.nan, math.inf
    u = displacement(spatial, dtype=torch.float32, size=3.0)
    u[0] = displacement(spatial, 1, dtype=torch.float32, size=0.1) if min(spatial) > 1 else 0.25
    call = torch.ops.regkit.warp_backward
    with ops.backend("reference"):
        want = call(g.float(), image.float(), u, padding, 0.0, True, False)[0]
    g = g.to(device, **last) if grad_last else g.to(device)
    with ops.backend("cuda"):
        got = call(g, image.to(device), u.to(device), padding, 0.0, True, False)[0]
    assert got.is_contiguous(**last) and got.dtype == dtype
    got, finite = got.cpu().float(), want.isfinite()
    assert torch.equal(got.isfinite(), finite) and torch.equal(got.isnan(), want.isnan())
    assert_close("gradient of the image", got[finite], want[finite], TOLERANCE[dtype])


@pytest.mark.parametrize("metric", ["dot", "ssd"])
@pytest.mark.parametrize(
    ("spatial", "channels", "radius"),
    [((9, 70), 3, 4), ((19, 5), 9, 3), ((2, 9, 66), 2, 2), ((3, 4, 7), 1, 4), ((5, 1, 3), 17, 1)],
    ids=str,
)
def test_dense_correlation(spatial, channels, radius, metric, device):
    """Tiles of 8 x 64 voxels; 8 channels at a time; three displacements along j at a time, of which 2 radius + 1 need not be a multiple."""
    a, b = (randn(2, channels, *spatial, seed=seed, dtype=torch.float32).to(device) for seed in (1, 2))
    function = partial(ops.correlate_dense, radius=radius, metric=metric)
    assert_same("correlate_dense", by_cuda(function, (a, b)), [r.cpu() for r in reference(function, (a, b))], 2e-5)


@pytest.mark.parametrize(("size", "save_steps"), [(0.1, False), (1.0, False), (1.0, True), (8.0, False)])
@pytest.mark.parametrize("spatial", [(60, 61), (10, 9, 27)], ids=str)
def test_integration_of_small_and_large_velocities(spatial, size, save_steps, device):
    """By size: the first four steps pass in one kernel and every scatter is of a voxel's width; the last scatters reach further; all do."""
    v = displacement(spatial, 1, dtype=torch.float32, size=size / 4).to(device)
    function, tensors = (lambda v: ops.integrate_velocity(v, steps=5, save_steps=save_steps)), (v,)
    got = by_cuda(function, tensors)
    want = [r.cpu() for r in reference(function, tensors)]
    assert_same("integrate_velocity", got, want, 2e-5)
    torch.use_deterministic_algorithms(True)
    try:
        again = [by_cuda(function, tensors) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same("integrate_velocity, deterministic", again[0], want, 2e-5)
    assert all(torch.equal(x, y) for x, y in zip(*again))


def test_gradient_of_an_integration_that_is_no_number(device):
    """Infinite and NaN gradients have no whole number of units: they are added as they are, and stay where they belong."""
    v = displacement((5, 6, 40), dtype=torch.float32, size=0.05)
    g = randn(2, 3, 5, 6, 40, dtype=torch.float32)
    g[0, 1, 2, 3, 4], g[1, 2, 1, 1, 35] = math.nan, math.inf
    arguments = v.new_empty(0), 2
    with ops.backend("reference"):
        want = torch.ops.regkit.integrate_velocity_backward(g, v, *arguments)
    with ops.backend("cuda"):
        got = torch.ops.regkit.integrate_velocity_backward(g.to(device), v.to(device), *arguments).cpu()
    finite = want.isfinite()
    assert torch.equal(got.isfinite(), finite)
    assert 0 < (~finite).sum() < finite.numel() / 10
    assert_close("gradient", got[finite], want[finite], 1e-5)


WITHOUT_BARRIERS = ["warp channels last"]  # threads add to global memory, in any order


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("name", [name for name in CUDA if name not in WITHOUT_BARRIERS])
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
