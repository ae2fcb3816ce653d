"""Every op on a GPU, by every backend: like the reference on the CPU, the same bits in deterministic mode, on any stream and device,
without a wait for the GPU, and in a CUDA graph."""

import pytest
import torch

from regkit import ops
from tests.gpu.calls import DEVICE, PAIRS, Call, all_cases, captured, reference
from tests.ops.cases import SHAPES, assert_same

pytestmark = pytest.mark.gpu

LARGER = (40, 50, 70)  # many programs on every multiprocessor, that reach for the same voxels
RUNS = {  # shape, dtype: tolerance
    (SHAPES[3], torch.float32): 2e-5,
    (SHAPES[2], torch.float32): 2e-5,
    (SHAPES[2], torch.float64): 1e-11,
    (SHAPES[3], torch.float16): 2e-3,
    (SHAPES[2], torch.bfloat16): 1e-2,
    (LARGER, torch.float32): 1e-4,
}
every_op = pytest.mark.parametrize(("name", "backend"), PAIRS)


def prepared(name: str, backend: str, spatial=SHAPES[3], device: str = DEVICE) -> Call:
    with ops.backend(backend):
        return Call(all_cases(spatial, torch.float32, device)[name])


@pytest.mark.parametrize(("spatial", "dtype"), RUNS, ids=str)
@every_op
def test_follows_the_reference(name, backend, spatial, dtype):
    with ops.backend(backend):
        got = Call(all_cases(spatial, dtype)[name])()
    case = all_cases(spatial, dtype, "cpu")[name]
    want = reference(case)
    if name in ("best_displacement", "warp_nearest", "warp_labels"):  # decisions: rounding may turn one that is close
        assert (got[0].cpu() != want[0]).double().mean() < (0.02 if dtype in (torch.float16, torch.bfloat16) else 2e-3)
    else:
        # Steps of an integration sample near voxel centres, where gradients jump, now and then.
        assert_same(name, got, want, 5e-3 if name.startswith("integrate") and spatial == LARGER else RUNS[spatial, dtype])
        assert [g.dtype for g in got[1:]] == [t.dtype for t in case.tensors[: len(got) - 1]]


@every_op
def test_same_bits_in_deterministic_mode(name, backend):
    torch.use_deterministic_algorithms(True)
    try:
        with ops.backend(backend):
            call = Call(all_cases(LARGER, torch.float32)[name])
            first, second = call(), call()
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num()), f"{int((a != b).sum())} of {a.numel()} values differ"


@every_op
def test_waits_for_the_current_stream_only(name, backend):
    """The inputs arrive late on a stream of the test's own: a launch on another stream would read the zeros before them."""
    call = prepared(name, backend)
    with ops.backend(backend):
        want, inputs = call(), [leaf.detach().clone() for leaf in call.leaves]
        call.set([torch.zeros_like(x) for x in inputs])
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)  # clock cycles: about 10 ms
            call.set(inputs)
            got = call()
        stream.synchronize()
    assert_same(name, got, want, 2e-5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU only")
@every_op
def test_another_device_than_the_current_one(name, backend):
    with torch.cuda.device(0), ops.backend(backend):
        got, want = prepared(name, backend, device="cuda:1")(), prepared(name, backend)()
    assert all(x.device == torch.device("cuda", 1) for x in got)
    assert_same(name, got, want, 2e-5)


@every_op
def test_never_waits_for_the_gpu(name, backend):
    call = prepared(name, backend)
    torch.cuda.synchronize()
    with ops.backend(backend):
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@every_op
def test_replay_of_a_cuda_graph_follows_its_inputs(name, backend):
    call = prepared(name, backend)
    with ops.backend(backend):
        replay, got = captured(call)
        call.set([leaf.flip(-1).roll(1, 0) for leaf in call.leaves])
        want = call()
    replay()
    torch.cuda.synchronize()
    assert_same(name, got, want, 2e-5)
