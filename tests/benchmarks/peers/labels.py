"""Label maps in torch: as numbers sampled at the nearest voxel, or as one-hot maps that are warped linearly."""

import torch
import torch.nn.functional as F

from tests.benchmarks.peers import grid_sample


def one_hot(labels: torch.Tensor, count: int) -> torch.Tensor:
    """(B, 1, *spatial) -> (B, count + 1, *spatial) float32, of labels 0 .. count."""
    return F.one_hot(labels[:, 0].long(), count + 1).movedim(-1, 1).float()


def warp_nearest(labels: torch.Tensor, u: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    grid = grid_sample.normalised_grid(u, identity)
    return F.grid_sample(labels.float(), grid, mode="nearest", align_corners=True).to(labels.dtype)


def warp_majority(labels: torch.Tensor, u: torch.Tensor, identity: torch.Tensor, count: int) -> torch.Tensor:
    """The label whose warped one-hot map is largest."""
    warped = grid_sample.warp(one_hot(labels, count), u, identity, padding="border")
    return warped.argmax(1, keepdim=True).to(labels.dtype)


def dice(fixed: torch.Tensor, moving: torch.Tensor, u: torch.Tensor, identity: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Dice of every channel of two one-hot maps, one of them warped: (B, channels)."""
    warped, axes = grid_sample.warp(moving, u, identity), tuple(range(2, u.dim()))
    return (2 * (fixed * warped).sum(axes) + eps) / (fixed.sum(axes) + warped.sum(axes) + eps)
