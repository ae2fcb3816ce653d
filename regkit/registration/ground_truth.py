"""The motion between two labelled scans, as well as it can be found: what a network that regresses displacements learns from.

Cao et al. register the scans by their intensities (SyN), then what is left by Demons on maps of the tissues, and compose both. Here the
first is the pipeline's refinement, and Demons sees a channel for each label.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from regkit import ops
from regkit.errors import UsageError
from regkit.features.gradient import gradient
from regkit.geometry import Affine, Grid, Image
from regkit.registration.config import PRESETS
from regkit.registration.demons import demons_update
from regkit.registration.folds import remove_folds
from regkit.registration.prepare import Scan, level_grid
from regkit.registration.progress import silent
from regkit.registration.refine import refine, resize


@dataclass(frozen=True)
class MapsDemons:
    """Demons on label maps, coarse to fine."""

    shrink: tuple[float, ...] = (2.0, 1.0)
    """Voxel size of each level over the frame's."""
    iterations: tuple[int, ...] = (40, 30)
    step: float = 2.0
    """Twice the longest update, in voxels of the level."""
    smoothing: int = 2
    """Binomial filters over the displacement after every update."""

    def __post_init__(self):
        if len(self.shrink) != len(self.iterations) or min(self.shrink, default=1) < 1 or min(self.iterations, default=0) < 0:
            raise UsageError(
                f"shrink (at least 1) and iterations (at least 0) must have a number for each level, but are {self.shrink} and "
                f"{self.iterations}"
            )
        if self.step <= 0 or self.smoothing < 0:
            raise UsageError(f"step must be above 0 and smoothing at least 0, but are {self.step} and {self.smoothing}")


def ground_truth(
    fixed: torch.Tensor,  # (1, 1, *grid.shape), 0..1
    moving: torch.Tensor,  # (1, 1, *grid.shape), aligned up to the motion that is looked for
    fixed_labels: torch.Tensor,  # (1, 1, *grid.shape), integers
    moving_labels: torch.Tensor,  # (1, 1, *grid.shape)
    labels: Sequence[int],
    grid: Grid,
    *,
    preset: str = "mr-brain",
    demons: MapsDemons = MapsDemons(),
) -> torch.Tensor:  # (1, D, *grid.shape)
    """The displacement in voxels of the grid: `preset`'s refinement of the intensities, then Demons on the labels' maps, without folds.

    labels: those that are aligned; a channel each. None: the intensities alone.
    Raises UsageError for a preset that there is not.
    """
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    scans = [Scan(Image(volume[0, 0].cpu().numpy().astype(np.float32), grid), None, volume.device) for volume in (fixed, moving)]
    with torch.enable_grad():
        u, _ = refine(*scans, grid, Affine.identity(grid.ndim), None, PRESETS[preset], silent)
    u, _ = remove_folds(u)
    if labels:
        maps = [torch.cat([(volume == label).float() for label in labels], 1) for volume in (fixed_labels, moving_labels)]
        maps[1] = ops.warp(maps[1], u, padding="border")
        u, _ = remove_folds(ops.compose(u, align_maps(*maps, grid, demons)))
    return u


@torch.no_grad()
def align_maps(fixed: torch.Tensor, moving: torch.Tensor, grid: Grid, demons: MapsDemons) -> torch.Tensor:
    """The displacement (1, D, *grid.shape) by Demons between maps (1, C, *grid.shape) from 0 to 1."""
    u = torch.zeros(1, grid.ndim, *grid.shape, device=fixed.device)
    for shrink, iterations in zip(demons.shrink, demons.iterations):
        shape = level_grid(grid, shrink).shape
        level = [_shrunk(maps, shape) for maps in (fixed, moving)]
        slope, u = gradient(level[0]), resize(u, shape)
        for _ in range(iterations):
            u, _ = demons_update(*level, slope, u, step=demons.step, smoothing=demons.smoothing)
    return resize(u, grid.shape)


def _shrunk(maps: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Maps on a grid over the same box: means over its voxels."""
    if tuple(maps.shape[2:]) == tuple(shape):
        return maps
    pool = torch.nn.functional.adaptive_avg_pool3d if len(shape) == 3 else torch.nn.functional.adaptive_avg_pool2d
    return pool(maps, tuple(shape))
