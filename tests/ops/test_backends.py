"""The choice of a backend: context manager, environment variable, and what is said where one cannot serve."""

import threading
from importlib.util import find_spec

import pytest
import torch

from regkit import ops
from regkit.ops import backends, cuda, gpu_default


def test_cpu_tensors_take_the_compiled_kernel():
    assert backends.choose("warp", "cpu") == "cpp"
    assert ops.available("warp")[:2] == ("reference", "cpp")
    assert ops.available("no_such_op") == ()


def test_context_manager_nests_and_ends():
    with ops.backend("reference"):
        assert backends.choose("warp", "cpu") == "reference"
        with ops.backend("cpp"):
            assert backends.choose("warp", "cpu") == "cpp"
        assert backends.choose("warp", "cpu") == "reference"
    assert backends.choose("warp", "cpu") == "cpp"


def test_context_manager_ends_with_an_error():
    with pytest.raises(RuntimeError, match="mine"), ops.backend("reference"):
        raise RuntimeError("mine")
    assert backends.choose("warp", "cpu") == "cpp"


def test_context_manager_holds_in_other_threads():
    """torch runs backward passes on a GPU in threads of its own."""
    seen = []
    with ops.backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(backends.choose("warp", "cpu")))
        thread.start()
        thread.join()
    assert seen == ["reference"]


def test_the_faster_backend_is_taken_where_it_was_measured(monkeypatch):
    everything = dict.fromkeys(backends.BACKENDS, lambda: None)
    monkeypatch.setitem(backends._implementations, "warp", everything)
    monkeypatch.setitem(backends._implementations, "compose", everything)
    monkeypatch.setitem(gpu_default.FASTER, "warp", "triton")
    monkeypatch.setattr(cuda, "built", lambda: True)
    assert backends.choose("warp", "cuda") == "triton"
    assert backends.choose("compose", "cuda") == "cuda"
    monkeypatch.setattr(cuda, "built", lambda: False)
    assert backends.choose("compose", "cuda") == "triton"
    assert backends.choose("warp", "cpu") == "cpp"


def test_environment_variable(monkeypatch):
    monkeypatch.setenv("REGKIT_BACKEND", "reference")
    assert backends.choose("warp", "cpu") == "reference"
    with ops.backend("cpp"):
        assert backends.choose("warp", "cpu") == "cpp"
    monkeypatch.setenv("REGKIT_BACKEND", "fast")
    with pytest.raises(ValueError, match="REGKIT_BACKEND=fast is unknown; choose one of reference, cpp, cuda, triton"):
        ops.jacobian_determinant(torch.zeros(1, 2, 3, 4))


def test_the_wanted_backend_is_taken(monkeypatch):
    """The op that runs is the one chosen, forward and backward."""
    calls = []
    for op in ("warp", "warp_backward"):
        original = backends._implementations[op]["reference"]
        spy = lambda *a, op=op, original=original: calls.append(op) or original(*a)  # noqa: E731
        monkeypatch.setitem(backends._implementations[op], "reference", spy)
    u = torch.zeros(1, 2, 3, 4, requires_grad=True)
    ops.warp(torch.ones(1, 1, 3, 4), u).sum().backward()
    assert calls == []
    with ops.backend("reference"):
        ops.warp(torch.ones(1, 1, 3, 4), u).sum().backward()
    assert calls == ["warp", "warp_backward"]


@pytest.mark.skipif(not find_spec("triton"), reason="Triton is not installed")
def test_triton_takes_cpu_tensors_only_in_its_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with ops.backend("triton"):
        assert backends.choose("warp", "cpu") == "triton"
        monkeypatch.delenv("TRITON_INTERPRET")
        with pytest.raises(NotImplementedError, match="the triton backend does not run on cpu tensors; move them"):
            backends.choose("warp", "cpu")
        assert backends.choose("warp", "cuda") == "triton"


def test_messages():
    with pytest.raises(ValueError, match="unknown backend 'numpy'; choose one of"), ops.backend("numpy"):
        pass
    with pytest.raises(NotImplementedError, match="no cuda backend; it has reference, cpp"), ops.backend("cuda"):
        ops.jacobian_determinant(torch.zeros(1, 2, 3, 4))
    with pytest.raises(NotImplementedError, match="the cpp backend does not run on cuda tensors"), ops.backend("cpp"):
        backends.choose("warp", "cuda")
