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


def unpack(packed: torch.Tensor, shape: torch.Size, scale: float = 1.0) -> torch.Tensor:
    """scale * a packed field, as a contiguous one of this shape (B, D, *spatial)."""
    planar = packed.new_empty(shape)
    native.function("field_unpack", packed.dtype)(
        native.address(packed), native.address(planar), shape[1], shape[0], math.prod(shape[2:]), scale, torch.get_num_threads()
    )
    return planar
