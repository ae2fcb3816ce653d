"""The inverse of a displacement by fixed-point iteration in plain torch: v <- -u(y + v)."""

import torch

from regkit.reference.warp import BORDER, warp, working_dtype


def invert(displacement: torch.Tensor, iterations: int, tolerance: float) -> torch.Tensor:
    u = displacement.to(working_dtype(displacement))
    v, moving = -u, torch.ones_like(u[:, :1], dtype=torch.bool)
    for _ in range(iterations):
        following = -warp(u, v, BORDER, 0.0)
        change = (following - v).abs().amax(1, keepdim=True)
        v = torch.where(moving, following, v)
        moving = moving & (change > tolerance)
    return v.to(displacement.dtype).contiguous()
