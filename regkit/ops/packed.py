"""Displacement fields as the C++ kernels sample them: packed, the components of a voxel side by side (csrc/cpu/field.h says why)."""

import math

import torch

from regkit.ops import native


def pack(planar: torch.Tensor, scale: float = 1.0, out: torch.Tensor | None = None) -> torch.Tensor:
    """scale * a contiguous field (B, D, *spatial), packed; `out` has room for as many numbers."""
    packed = torch.empty_like(planar) if out is None else out
    batch, dims, *spatial = planar.shape
    native.function("field_pack", planar.dtype)(
        native.address(planar), native.address(packed), dims, batch, math.prod(spatial), scale, torch.get_num_threads()
    )
    return packed


def sums(field: torch.Tensor) -> torch.Tensor:
    """Room for the sums of a gradient by a field (B, D, *spatial), as the kernels keep them while they add: 2 or 4 numbers a voxel."""
    return field.new_empty(field.shape[0] * (4 if field.shape[1] == 3 else 2) * math.prod(field.shape[2:]))


def unpack_sums(sums: torch.Tensor, shape: torch.Size, scale: float = 1.0) -> torch.Tensor:
    """scale * a gradient out of its sums: (B, D, *spatial)."""
    out = sums.new_empty(shape)
    native.function("field_unpack_sums", sums.dtype)(
        native.address(sums), native.address(out), shape[1], shape[0], math.prod(shape[2:]), scale, torch.get_num_threads()
    )
    return out
