"""The C++ extension: picks the build for this CPU and hands tensors to it as addresses.

`REGKIT_INSTRUCTION_SET` (baseline, avx2, avx512) forces a build, for tests and comparisons.
"""

import os
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from types import ModuleType

import torch


@cache
def extension() -> ModuleType:
    """The extension module of the best instruction set that this CPU supports. Raises ImportError if regkit was not built."""
    try:
        baseline = import_module("regkit._cpp_baseline")
    except ModuleNotFoundError as error:
        raise ImportError(
            "regkit's C++ extension is not built: run `pip install .` in its source folder (a C++17 compiler is needed)"
        ) from error
    supported = list(baseline.supported_instruction_sets())
    wanted = os.environ.get("REGKIT_INSTRUCTION_SET", supported[0])
    if wanted not in supported:
        raise ImportError(f"REGKIT_INSTRUCTION_SET={wanted} is not one of those this CPU supports: {', '.join(supported)}")
    return import_module(f"regkit._cpp_{wanted}")


def function(name: str, dtype: torch.dtype):
    """The launcher `name` for a dtype, e.g. ("warp", torch.float32) -> warp_float32."""
    return getattr(extension(), f"{name}_{str(dtype).removeprefix('torch.')}")


def address(tensor: torch.Tensor | None) -> int:
    """Address of a contiguous tensor's first element; 0 (a null pointer) for None."""
    return 0 if tensor is None else tensor.data_ptr()


def sizes(spatial: Sequence, missing: float = 1) -> tuple:
    """Spatial sizes (or other numbers, one an axis) as (i, j, k), 2-D ones with `missing` for i."""
    return (missing,) * (3 - len(spatial)) + tuple(spatial)


def working_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """Kernels compute in float32, or in float64 when any tensor is float64."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
