"""Which implementation an op takes.

Backends: `reference` (plain torch, any device), `cpp` (CPU), and on GPUs `cuda` (CUDA C++) and `triton`. CPU tensors take cpp; on GPUs the
faster backend is taken where they were compared (gpu_default.py), else the first in order of PREFERENCE.
`backend("reference")` as a context manager, or the environment variable REGKIT_BACKEND, overrides the choice. An op that lacks the wanted
backend raises; nothing falls back silently.

Triton kernels run on CPU tensors too where TRITON_INTERPRET=1 is set: slowly, in Triton's interpreter, for tests on machines without a GPU.
So do CUDA kernels where regkit.ops.cuda.emulate was called.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch

from regkit.ops import cuda, gpu_default

BACKENDS = ("reference", "cpp", "cuda", "triton")
PREFERENCE = {"cpu": ("cpp",), "cuda": ("cuda", "triton", "reference")}

_overrides: dict[object, str] = {}  # the last one counts, in all threads: torch runs backward passes on a GPU in threads of its own
_implementations: dict[str, dict[str, Callable]] = {}


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Within this context every op takes the backend `name` (reference, cpp, cuda or triton), in all threads."""
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; choose one of {', '.join(BACKENDS)}")
    key = object()
    _overrides[key] = name
    try:
        yield
    finally:
        del _overrides[key]


def requested() -> str | None:
    """The backend asked for by the context manager or REGKIT_BACKEND, or None for the automatic choice."""
    name = next(reversed(_overrides.values()), None) or os.environ.get("REGKIT_BACKEND")
    if name and name not in BACKENDS:
        raise ValueError(f"REGKIT_BACKEND={name} is unknown; choose one of {', '.join(BACKENDS)}")
    return name


def available(op: str) -> tuple[str, ...]:
    """The backends that `op` has, in the order of BACKENDS."""
    return tuple(name for name in BACKENDS if name in _implementations.get(op, {}) and (name != "cuda" or cuda.built()))


def registered() -> tuple[str, ...]:
    """All ops that are connected to backends, public or not: warp, warp_backward, ..."""
    return tuple(_implementations)


def preferred(op: str, device_type: str) -> tuple[str, ...]:
    """The backends that `op` takes on a device if it has them, the first first."""
    order = PREFERENCE.get(device_type, ("reference",))
    measured = gpu_default.FASTER.get(op) if device_type == "cuda" else None
    return (measured, *order) if measured else order


def choose(op: str, device_type: str) -> str:
    """The backend that `op` takes on a device; raises NotImplementedError with the reason where the one asked for cannot serve."""
    have = available(op)
    name = requested()
    if name is None:
        name = next((n for n in preferred(op, device_type) if n in have), "reference")
    if name not in have:
        raise NotImplementedError(f"regkit.ops.{op} has no {name} backend; it has {', '.join(have)}")
    on_cpu = name in ("reference", "cpp") or name == "triton" and interpreted() or name == "cuda" and cuda.emulated()
    if not (on_cpu if device_type == "cpu" else name != "cpp"):
        raise NotImplementedError(f"the {name} backend does not run on {device_type} tensors; move them, or choose the reference backend")
    return name


def interpreted() -> bool:
    """Whether Triton kernels run in Triton's interpreter, on the CPU. It is decided when Triton is imported, by TRITON_INTERPRET."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def triton_kernel(module: str, function: str) -> Callable | None:
    """regkit.kernels.<module>.<function>, imported at its first call, for Triton takes a second to load; None where it is not installed."""
    if not _installed("triton"):
        return None

    def call(*args):
        return getattr(import_module(f"regkit.kernels.{module}"), function)(*args)

    return call


@cache
def _installed(package: str) -> bool:
    return find_spec(package) is not None


def register(op: str, **implementations: Callable | None) -> None:
    """Makes implementations known and connects them to torch.ops.regkit.<op>, whose schema must be defined before.

    None stands for an implementation that this machine lacks.
    """
    _implementations[op] = {name: function for name, function in implementations.items() if function is not None}

    def call(*args):
        device = next(a.device.type for a in args if isinstance(a, torch.Tensor))
        return _implementations[op][choose(op, device)](*args)

    torch.library.impl(f"regkit::{op}", "CPU", call)
    torch.library.impl(f"regkit::{op}", "CUDA", call)
