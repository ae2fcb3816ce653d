"""From world transforms to the voxel displacement that the ops take: ``moved(x) = moving(x + u(x))``.

A chain is followed as ``position(x) = M x + d(x)``: every affine part folds into the small matrix M in float64, only fields need memory.
Work goes in slabs of the first axis that fit the cache, so that nothing but the result is as large as the fixed image. A field on a coarser
grid with the fixed grid's axes, the usual case, is interpolated one axis at a time by small matrix products, which cost a fraction of a
general lookup; other fields go through ops.warp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from regkit import ops
from regkit.errors import InputError
from regkit.geometry.grid import Grid
from regkit.geometry.transforms import Affine, DisplacementField, Transform

_SLAB_VOXELS = 1 << 19  # small enough for the passes over a slab to stay in cache, large enough that threads are seldom gathered
_TOLERANCE = 1e-4  # voxels; what float32 headers leave, and far below what shows in an image


def total_displacement(
    transform: Transform | None,
    fixed_grid: Grid,
    moving_grid: Grid,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """The displacement in voxels, (1, D, *fixed shape), with which the ops pull the moving image onto the fixed grid.

    ``x + u(x) = moving_index(T(fixed_world(x)))``, x being the fixed grid's index; None is the identity between the two worlds.
    """
    result = torch.empty((1, fixed_grid.ndim, *fixed_grid.shape), dtype=dtype, device=device)
    for rows, displacement in displacement_slabs(transform, fixed_grid, moving_grid, dtype, device):
        displacement[:, 0] -= rows.start
        result[:, :, rows] = displacement
    return result


def as_displacement_field(transform: Transform, grid: Grid) -> DisplacementField:
    """Any transform as one field sampled on ``grid``: v(x) = T(x) - x at its voxel centres. Exact there, linear in between."""
    return DisplacementField.from_voxels(total_displacement(transform, grid, grid)[0].numpy(), grid)


def displacement_slabs(
    transform: Transform | None, fixed_grid: Grid, moving_grid: Grid, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The displacement of :func:`total_displacement` in pieces ``(rows of axis 0, (1, D, rows, ...))``,
    each counted from its own first voxel.

    ``ops.warp(moving, piece)`` is then the moved image's piece, since a displacement's grid need not be the image's.
    """
    parts = [Affine.identity(fixed_grid.ndim)] if transform is None else list(transform.parts)
    dimensions = {fixed_grid.ndim, moving_grid.ndim, *(part.ndim for part in parts)}
    if len(dimensions) > 1:
        raise InputError(
            f"dimensions differ: fixed {fixed_grid.ndim}-D, moving {moving_grid.ndim}-D, transform {parts[0].ndim}-D; "
            "give all of one dimension"
        )
    vectors = {id(part): torch.from_numpy(part.vectors).to(device, dtype) for part in parts if isinstance(part, DisplacementField)}
    to_moving = np.linalg.inv(moving_grid.affine)
    step = max(1, _SLAB_VOXELS // int(np.prod(fixed_grid.shape[1:])))
    for start in range(0, fixed_grid.shape[0], step):
        rows = slice(start, min(start + step, fixed_grid.shape[0]))
        slab = fixed_grid.crop([start, *(0 for _ in fixed_grid.shape[1:])], [rows.stop, *fixed_grid.shape[1:]])
        position = _Position(slab.affine, np.eye(slab.ndim), None, slab.shape, dtype, device)
        for part in reversed(parts):
            if isinstance(part, Affine):
                position = position.mapped(part.matrix)
            else:
                position = position.displaced(vectors[id(part)], part.grid)
        yield rows, position.mapped(to_moving).displacement()


@dataclass(frozen=True)
class _Position:
    """``M x + L d(x)`` for all voxels x of ``shape``: matrix M (D+1, D+1) and linear L (D, D) float64;
    offsets d (D, *shape), or None for zero.

    L waits for the next sum, so that a chain of affine parts costs one pass over the voxels.
    """

    matrix: np.ndarray
    linear: np.ndarray
    offsets: torch.Tensor | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device | str

    def mapped(self, matrix: np.ndarray) -> _Position:
        return replace(self, matrix=matrix @ self.matrix, linear=matrix[:-1, :-1] @ self.linear)

    def displaced(self, vectors: torch.Tensor, grid: Grid) -> _Position:
        there = self.mapped(np.linalg.inv(grid.affine))
        aligned = axis_positions(there.matrix, self.shape) if self.offsets is None else None
        if aligned is not None:
            found = vectors
            for axis, positions in enumerate(aligned):
                found = _interpolate_axis(found, axis + 1, positions)
        else:
            found = self._plus_offsets(ops.warp(vectors[None], there.displacement(), padding="extent")[0])
        return replace(self, linear=np.eye(len(self.shape)), offsets=found)

    def displacement(self) -> torch.Tensor:
        """(1, D, *shape): position minus x."""
        ndim = len(self.shape)
        change = self.matrix[:-1] - np.eye(ndim, ndim + 1)
        # float64 along each axis, float32 sums of axes: one pass makes the affine part of all components.
        terms = [np.multiply.outer(change[:, axis], np.arange(n)) for axis, n in enumerate(self.shape)]
        terms[0] += change[:, -1:]
        head = terms[0]
        for term in terms[1:-1]:
            head = head[..., None] + term[:, None]
        tail = terms[-1].reshape(ndim, *(1 for _ in self.shape[:-1]), -1)
        head, tail = (torch.from_numpy(part).to(self.device, self.dtype) for part in (head[..., None], tail))
        return self._plus_offsets(head + tail)[None]

    def _plus_offsets(self, base: torch.Tensor) -> torch.Tensor:
        if self.offsets is not None:
            linear = torch.from_numpy(np.ascontiguousarray(self.linear)).to(self.device, self.dtype)
            base.view(len(base), -1).addmm_(linear, self.offsets.reshape(len(base), -1))
        return base


def axis_positions(matrix: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray] | None:
    """Where an index-to-index matrix (D+1, D+1) keeps the axes apart: for each axis of ``shape`` the positions (n,) along it;
    None where axes mix."""
    linear = matrix[:-1, :-1]
    mixing = np.abs(linear - np.diag(np.diag(linear))) @ (np.asarray(shape) - 1.0)
    if mixing.max() > _TOLERANCE:
        return None
    return [linear[axis, axis] * np.arange(n) + matrix[axis, -1] for axis, n in enumerate(shape)]


def _interpolate_axis(volume: torch.Tensor, axis: int, positions: np.ndarray) -> torch.Tensor:
    """Linear interpolation along one axis at ``positions`` (m,): zero outside the voxels' edges,
    the end voxel's value within its outer half."""
    size = volume.shape[axis]
    start = round(float(positions[0]))
    if 0 <= start and start + len(positions) <= size and np.abs(positions - start - np.arange(len(positions))).max() < _TOLERANCE:
        return volume.narrow(axis, start, len(positions))
    weights = linear_rows(size, positions)
    used = np.flatnonzero(weights.any(axis=0))
    first, last = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 1)
    return multiply_axis(volume.narrow(axis, first, last - first), axis, weights[:, first:last])


def linear_rows(size: int, positions: np.ndarray) -> np.ndarray:
    """(m, size) weights of linear interpolation at ``positions`` (m,) along an axis of ``size`` voxels, with ITK's rule for its ends."""
    clamped = np.clip(positions, 0, size - 1)
    low = np.minimum(clamped.astype(np.int64), max(size - 2, 0))
    rows = np.arange(len(positions))
    weights = np.zeros((len(positions), max(size, 2)))  # a single voxel gets a neighbour of weight 0
    weights[rows, low] = 1.0 - (clamped - low)
    weights[rows, low + 1] = clamped - low
    weights[(positions < -0.5) | (positions > size - 0.5)] = 0.0
    return weights[:, :size]


def multiply_axis(volume: torch.Tensor, axis: int, weights: np.ndarray) -> torch.Tensor:
    """Replace the ``n`` values along ``axis`` by ``weights @ values``: weights (m, n); a separable filter's one step, at BLAS speed."""
    matrix = torch.from_numpy(np.ascontiguousarray(weights)).to(volume.device, volume.dtype)
    shape = (*volume.shape[:axis], len(matrix), *volume.shape[axis + 1 :])
    if axis == volume.ndim - 1:
        return (volume.reshape(-1, volume.shape[axis]) @ matrix.T).view(shape)
    batch = int(np.prod(volume.shape[:axis]))
    return (matrix @ volume.reshape(batch, volume.shape[axis], -1)).view(shape)
