"""Patches around points and their cosine maps in plain torch: each map is a correlation of keypoints with its own patch radius."""

import torch

from regkit.reference.correlate import COSINE, correlate_keypoints, flat_index, lattice, take, working_dtype


def similarity_maps(
    fixed: torch.Tensor, moving: torch.Tensor, points: torch.Tensor, patch_size: int, kernel_sizes: list[int]
) -> torch.Tensor:
    dims, dtype, half = fixed.dim() - 2, working_dtype(fixed, moving), patch_size // 2
    f, m = fixed.to(dtype), moving.to(dtype)
    offsets = lattice(half, 1, dims, fixed.device)
    maps = [take(x, flat_index(x.shape[2:], points[:, :, None] + offsets))[:, 0] for x in (f, m)]
    maps += [correlate_keypoints(f, m, points, points, half, 1, size // 2, 1, COSINE) for size in kernel_sizes]
    return torch.stack(maps, 2).reshape(*points.shape[:2], 2 + len(kernel_sizes), *[patch_size] * dims).to(fixed.dtype)
