"""What regkit's networks and losses take from regkit.ops, by torch's functions; the usual way to write a registration network.

`ops` stands in for regkit.ops within a network, so that peers differ from regkit in nothing else.
"""

from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from tests.benchmarks.peers import grid_sample, lncc, voxelmorph
from tests.benchmarks.peers import labels as label_maps

LINEAR = {2: "bilinear", 3: "trilinear"}


@lru_cache(maxsize=8)
def identity(size: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """The grid that a spatial transformer layer keeps."""
    return grid_sample.identity_grid(size, torch.empty(0, device=device))


def grid_of(u: torch.Tensor) -> torch.Tensor:
    return identity(tuple(u.shape[2:]), u.device)


def warp(image: torch.Tensor, u: torch.Tensor, *, padding: str = "zeros") -> torch.Tensor:
    return grid_sample.warp(image, u, grid_of(u), padding)


def integrate_velocity(velocity: torch.Tensor, *, steps: int) -> torch.Tensor:
    return grid_sample.integrate(velocity, grid_of(velocity), steps)


def upsample(u: torch.Tensor, size: Sequence[int], factor: float | Sequence[float], offset: float = 0.0, *, scale: float = 1.0):
    """By interpolate, for the two ways that the networks use."""
    x = F.interpolate(u, size=tuple(size), mode=LINEAR[u.dim() - 2], align_corners=offset == 0)
    return x if scale == 1 else x * scale


ops = SimpleNamespace(warp=warp, integrate_velocity=integrate_velocity, upsample=upsample)


def doubled_convolution(convolution: torch.nn.Module, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    """A decoder's step as U-Nets are written."""
    return convolution(torch.cat([F.interpolate(coarse, scale_factor=2, mode="nearest"), fine], 1))


layers = {"channels_last": lambda x: x, "doubled_convolution": doubled_convolution}


def similarity(fixed: torch.Tensor, warped: torch.Tensor, windows: Sequence[int], eps: float, box: lncc.Box) -> torch.Tensor:
    """Local NCC on a pyramid, one window a level from the finest on; one window is plain local NCC."""
    pool, total = F.avg_pool3d if fixed.dim() == 5 else F.avg_pool2d, 0.0
    for i, window in enumerate(windows):
        if i:
            fixed, warped = (pool(image, 3, 2, 1, count_include_pad=False) for image in (fixed, warped))
        total = total - lncc.ncc(fixed, warped, window, eps, box) / 2**i
    return total


def dice_loss(fixed: torch.Tensor, moving: torch.Tensor, u: torch.Tensor, labels: int) -> torch.Tensor:
    """Of one-hot maps, the moving ones warped linearly."""
    fixed, moving = (torch.cat([x == label for label in range(1, labels + 1)], 1).float() for x in (fixed, moving))
    return 1 - label_maps.dice(fixed, moving, u, grid_of(u)).mean()


def smoothness_loss(u: torch.Tensor) -> torch.Tensor:
    return voxelmorph.gradient_energy(u)
