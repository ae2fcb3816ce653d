"""From the displacement on the working grid to the transforms that are kept: fading out beyond the working grid, and the inverse."""

import math

import numpy as np
import torch

from regkit import ops
from regkit.geometry import Affine, Composite, DisplacementField, Grid

FADE = 3.0  # voxels of fading per voxel of displacement: a slope of 1/3, far from folding
TOLERANCE = 0.01  # voxels, of the inverse
SWEEPS, NEWTON = 10, 12
LONGEST = 2.0  # voxels, of a Newton step


def extend(u: torch.Tensor, grid: Grid, whole: Grid) -> tuple[torch.Tensor, Grid]:
    """The displacement (1, D, *grid.shape) continued beyond its grid until it has faded to 0, or covers the box of `whole` and what it maps
    that box to.

    A displacement field is 0 outside its grid (ITK's rule). Where the working grid is smaller than the fixed scan, a sudden end would tear
    the image; and the inverse, which lies on the same grid, must know where points came from that were moved out of the box.
    """
    lower, upper = [], []
    corners = grid.to_index(np.array(whole.corners))
    reach = [[max(0, math.ceil(-c.min()) + 1), max(0, math.ceil(c.max() - (n - 1)) + 1)] for c, n in zip(corners.T, grid.shape)]
    faces = [[u.select(d + 2, at).abs().max().item() for at in (0, -1)] for d in range(grid.ndim)]
    lengths = [[math.ceil(FADE * face) + 2 for face in pair] for pair in faces]
    for d in range(grid.ndim):
        low, high = _overshoot(u[0, d], d)
        lower.append(min(reach[d][0] + low, lengths[d][0]))
        upper.append(min(reach[d][1] + high, lengths[d][1]))
    wide = u
    for d in range(grid.ndim):  # axis by axis, so that no index of the whole padded volume is needed
        n = grid.shape[d]
        index = torch.arange(-lower[d], n + upper[d], device=u.device)
        outside = torch.where(index < 0, -index / lengths[d][0], (index - (n - 1)) / lengths[d][1]).clamp_min(0)
        fade = (1 - outside).clamp_min(0).reshape([-1 if a == d else 1 for a in range(grid.ndim)])
        wide = wide.index_select(d + 2, index.clamp(0, n - 1)) * fade
    return wide, grid.pad(lower, upper)


def _overshoot(u: torch.Tensor, axis: int) -> tuple[int, int]:
    """By how many voxels x + u(x) leaves the grid at the lower and the upper end of an axis; u (*spatial) is the component along it."""
    n = u.shape[axis]
    place = torch.arange(n, dtype=u.dtype, device=u.device).reshape([-1 if a == axis else 1 for a in range(u.dim())]) + u
    return max(0, math.ceil(-float(place.min()))), max(0, math.ceil(float(place.max()) - (n - 1)))


def invert(u: torch.Tensor) -> torch.Tensor:
    """v with y + v(y) + u(y + v(y)) = y: y + v(y) undoes x + u(x). (1, D, *spatial), voxels, borders repeated.

    Fixed-point iteration, v <- -u(y + v), settles most voxels in a few rounds; where u stretches or squeezes hard it does not converge, and
    the voxels left over are solved by Newton's method.
    """
    v = ops.invert(u, iterations=SWEEPS, tolerance=TOLERANCE / 10)
    residual = (ops.warp(u, v, padding="border") + v).abs().amax(1)[0]
    places = (residual > TOLERANCE).nonzero()
    if len(places):
        at = tuple(places.T)
        v[(0, slice(None), *at)] = _newton(u, places.T.float(), v[(0, slice(None), *at)])
    return v


def _newton(u: torch.Tensor, y: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Solves v + u(y + v) = 0 at points y (D, N), from v (D, N); a step that does not shorten the residual is halved."""
    dims, count = y.shape
    index, identity = y.new_zeros(dims, count), torch.eye(dims, device=y.device)
    index[-1] = torch.arange(count, device=y.device)  # the points are one row of an image: what warp adds to a displacement

    def sample(x: torch.Tensor) -> torch.Tensor:
        return ops.warp(u, (x - index).reshape(1, dims, *[1] * (dims - 1), count), padding="border").reshape(dims, count)

    residual, size = v + sample(y + v), y.new_ones(count)
    for _ in range(NEWTON):
        columns = []
        for d in range(dims):
            half = y.new_zeros(dims, 1)
            half[d] = 0.5
            columns.append(sample(y + v + half) - sample(y + v - half))
        jacobian = torch.stack(columns, -1).permute(1, 0, 2) + identity  # (N, D, D), d residual / d v
        jacobian = jacobian + 1e-3 * identity
        step = torch.linalg.solve_ex(jacobian, residual.T[..., None])[0][..., 0].T.nan_to_num(0.0).clamp(-LONGEST, LONGEST)
        tried = v - size * step
        after = tried + sample(y + tried)
        better = after.square().sum(0) < residual.square().sum(0)
        v, residual = torch.where(better, tried, v), torch.where(better, after, residual)
        size = torch.where(better, 1.0, 0.5 * size)
    return v


def transforms(u: torch.Tensor, grid: Grid, affine: Affine) -> tuple[Composite, Composite]:
    """fixed -> moving and moving -> fixed, both as [.., ..] in ITK's order (the last is applied first), from a displacement in voxels of
    `grid`."""
    forward = Composite([affine, DisplacementField.from_voxels(u[0].cpu().numpy(), grid)])
    backward = Composite([DisplacementField.from_voxels(invert(u)[0].cpu().numpy(), grid), affine.inverse()])
    return forward, backward
