"""How every Triton kernel is launched, and the types it computes with.

Kernels get tensors, sizes and compile-time options; the launch is on the tensors' device and current stream. Nothing here reads a tensor's
values on the host, so that every op can be captured in a CUDA graph.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import triton
import triton.language as tl

LARGEST_INT32 = 2**31 - 1


def run(kernel, programs: int | tuple[int, ...], *args, num_warps: int = 4, **options) -> None:
    """Launches `kernel` on a grid of programs (none: nothing to do). Multiplications and additions may fuse, as in the CPU kernels."""
    grid = programs if isinstance(programs, tuple) else (programs,)
    if 0 in grid:
        return
    device = next(a.device for a in args if isinstance(a, torch.Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*args, num_warps=num_warps, enable_fp_fusion=True, **options)


def offset_type(*tensors: torch.Tensor | None) -> tl.dtype:
    """Type of offsets into these tensors: 64 bits only where 32 are too few. Some room is left for masked lanes beyond the end."""
    return tl.int64 if any(t is not None and t.numel() > LARGEST_INT32 - 2**20 for t in tensors) else tl.int32


def work_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """Kernels compute in float32, or in float64 where any tensor is float64."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def work_type(*tensors: torch.Tensor) -> tl.dtype:
    """work_dtype, as Triton names it."""
    return tl.float64 if work_dtype(*tensors) == torch.float64 else tl.float32


def sizes(spatial: Sequence[int], missing: int = 1) -> tuple[int, ...]:
    """Spatial sizes as (i, j, k), 2-D ones with `missing` for i."""
    return (missing,) * (3 - len(spatial)) + tuple(spatial)


def deterministic() -> bool:
    """Whether results must be the same bits in every run: scatters then add integers, whose order does not matter."""
    return torch.are_deterministic_algorithms_enabled()


def blocks(total: int, block: int) -> int:
    return triton.cdiv(total, block)
