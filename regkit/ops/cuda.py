"""The CUDA C++ extension: hands tensors, sizes and the current stream to its kernels.

Without a GPU the same kernels can run on CPU tensors, slowly, for tests: `emulate` takes a module that was built of them by a C++ compiler
(tests/cuda/emulated.py).
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

STORED = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # StoredAs of csrc/cuda/stored.h
_emulation: ModuleType | None = None


def emulate(module: ModuleType | None) -> None:
    """From here on the backend `cuda` runs on CPU tensors, by this module; None: no longer."""
    global _emulation
    _emulation = module


def emulated() -> bool:
    """Whether CUDA kernels run on the CPU."""
    return _emulation is not None


def built() -> bool:
    """Whether there are CUDA kernels here."""
    return emulated() or _installed()


@cache
def _installed() -> bool:
    return find_spec("regkit._cuda") is not None


def kernel(function: Callable, otherwise: Callable | None = None, serves: Callable[..., bool] = lambda *_: True) -> Callable:
    """An op's implementation by CUDA C++ kernels, on the device of its first tensor; by `otherwise` (Triton) where serves(*args) says that
    they are not made for it."""

    def call(*args):
        device = next(a.device for a in args if isinstance(a, torch.Tensor))
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            return (function if serves(*args) else otherwise)(*args)

    return call


def run(name: str, *args, device: torch.device) -> None:
    """Calls the launcher `name`. Tensors among the arguments are contiguous (channels last where it takes that) and go as addresses; None
    is a null pointer."""
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    getattr(extension(), name)(*(_plain(a) for a in args), stream)


def extension() -> ModuleType:
    """The module of the launchers."""
    return _emulation or import_module("regkit._cuda")


def of_type(name: str, dtype: torch.dtype | int) -> str:
    """The name of a launcher for a dtype, or for elements of so many bits."""
    return f"{name}_{str(dtype).removeprefix('torch.')}"


def _plain(argument):
    return 0 if argument is None else argument.data_ptr() if isinstance(argument, torch.Tensor) else argument
