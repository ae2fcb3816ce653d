"""From the displacement on the working grid to the transforms that are kept: fading out beyond the working grid, and the inverse."""

import math

import numpy as np
import torch

from regkit import ops
from regkit.geometry import Affine, Composite, DisplacementField, Grid

FADE = 3.0  # voxels of fading per voxel of displacement: a slope of 1/3, far from folding
TOLERANCE = 1e-3  # voxels, of the inverse
ROUNDS = 60


def extend(u: torch.Tensor, grid: Grid, whole: Grid) -> tuple[torch.Tensor, Grid]:
    """The displacement (1, D, *grid.shape) continued beyond its grid until it has faded to 0 or the box of `whole` ends.

    A displacement field is 0 outside its grid (ITK's rule). Where the working grid is smaller than the fixed scan, a sudden end would tear the image.
    """
    lower, upper = [], []
    corners = grid.to_index(np.array(whole.corners))
    reach = [[max(0, math.ceil(-c.min()) + 1), max(0, math.ceil(c.max() - (n - 1)) + 1)] for c, n in zip(corners.T, grid.shape)]
    faces = [[u.select(d + 2, at).abs().max().item() for at in (0, -1)] for d in range(grid.ndim)]
    lengths = [[math.ceil(FADE * face) + 2 for face in pair] for pair in faces]
    for d in range(grid.ndim):
        lower.append(min(reach[d][0], lengths[d][0]))
        upper.append(min(reach[d][1], lengths[d][1]))
    wide = u
    for d in range(grid.ndim):  # axis by axis, so that no index of the whole padded volume is needed
        n = grid.shape[d]
        index = torch.arange(-lower[d], n + upper[d])
        outside = torch.where(index < 0, -index / lengths[d][0], (index - (n - 1)) / lengths[d][1]).clamp_min(0)
        fade = (1 - outside).clamp_min(0).reshape([-1 if a == d else 1 for a in range(grid.ndim)])
        wide = wide.index_select(d + 2, index.clamp(0, n - 1)) * fade
    return wide, grid.pad(lower, upper)


def invert(u: torch.Tensor) -> torch.Tensor:
    """v with v(y) = -u(y + v(y)), so that y + v(y) undoes x + u(x); fixed-point iteration from v = -u, damped where it overshoots.

    Converges to TOLERANCE voxels where u is invertible on the grid. (1, D, *spatial), voxels.
    """
    v, step, last = -u, 1.0, math.inf
    for _ in range(ROUNDS):
        residual = ops.warp(u, v, padding="border") + v
        worst = float(residual.abs().mean())
        if float(residual.abs().max()) < TOLERANCE:
            break
        step = max(0.3, step * 0.7) if worst > 0.9 * last else step
        last = worst
        v = v - step * residual
    return v


def transforms(u: torch.Tensor, grid: Grid, affine: Affine) -> tuple[Composite, Composite]:
    """fixed -> moving and moving -> fixed, both as [.., ..] in ITK's order (the last is applied first), from a displacement in voxels of `grid`."""
    forward = Composite([affine, DisplacementField.from_voxels(u[0].numpy(), grid)])
    backward = Composite([DisplacementField.from_voxels(invert(u)[0].numpy(), grid), affine.inverse()])
    return forward, backward
