"""Transforms between two worlds: affine, displacement field, and a chain of them.

Every transform maps points of the fixed image's world to points of the moving image's world, in mm, as ITK's resampling transforms do: the
moved image at x is the moving image at T(x). Landmarks of the fixed image go through T to the moving image;
the other way needs the inverse.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from regkit.errors import InputError
from regkit.geometry.grid import Grid


class Transform:
    """What Affine, DisplacementField and Composite share."""

    ndim: int

    def apply(self, points: np.ndarray) -> np.ndarray:
        """(N, D) world points in mm of the fixed space -> (N, D) world points of the moving space, float64."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[Transform, ...]:
        return (self,)

    def __matmul__(self, other: Transform) -> Transform:
        """``(a @ b)(x) = a(b(x))``: b is applied first."""
        if isinstance(self, Affine) and isinstance(other, Affine) and self.ndim == other.ndim:
            return Affine(self.matrix @ other.matrix)
        return Composite((*self.parts, *other.parts))

    def save(self, path: str | os.PathLike[str], *, fixed: Grid | None = None, moving: Grid | None = None) -> None:
        """Write the transform; the format follows the name: see :func:`regkit.geometry.save_transform`."""
        from regkit.geometry.transform_files import save_transform

        save_transform(self, path, fixed=fixed, moving=moving)

    def _points(self, points: np.ndarray) -> np.ndarray:
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != self.ndim:
            raise InputError(f"a {self.ndim}-D transform needs points of shape (N, {self.ndim}), got {points.shape}")
        return points


@dataclass(frozen=True, eq=False)
class Affine(Transform):
    """``T(x) = A x + t``.

    Parameters
    ----------
    matrix : (D+1, D+1) float64, homogeneous, world to world (RAS mm in 3-D). Must be invertible, else InputError.
    """

    matrix: np.ndarray

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape not in ((3, 3), (4, 4)) or not np.array_equal(matrix[-1], np.eye(len(matrix))[-1]):
            raise InputError(f"an affine needs a 3 x 3 or 4 x 4 matrix whose last row is 0 .. 0 1, got shape {matrix.shape}")
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
            raise InputError("the affine matrix is singular or not finite; it must be invertible")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def identity(cls, ndim: int = 3) -> Affine:
        return cls(np.eye(ndim + 1))

    @property
    def ndim(self) -> int:
        return len(self.matrix) - 1

    def apply(self, points: np.ndarray) -> np.ndarray:
        return self._points(points) @ self.matrix[:-1, :-1].T + self.matrix[:-1, -1]

    def inverse(self) -> Affine:
        return Affine(np.linalg.inv(self.matrix))


@dataclass(frozen=True, eq=False)
class DisplacementField(Transform):
    """``T(x) = x + v(x)``, v interpolated linearly between the voxels of its own grid.

    Outside the grid's box (voxel edges) v is zero; in the outer half voxel it is that of the nearest voxel centres: ITK's
    DisplacementFieldTransform to the letter, so that a saved field means elsewhere what it meant here.

    Parameters
    ----------
    grid : where the vectors lie: the fixed grid or any other, usually coarser one.
    vectors : (D, *grid.shape) float32 in mm along the world's axes (RAS in 3-D), finite.
    """

    grid: Grid
    vectors: np.ndarray

    def __post_init__(self) -> None:
        vectors = np.ascontiguousarray(self.vectors, dtype=np.float32)
        if vectors.shape != (self.grid.ndim, *self.grid.shape):
            raise InputError(
                f"a field on a grid of shape {self.grid.shape} needs vectors of shape {(self.grid.ndim, *self.grid.shape)}, "
                f"got {vectors.shape}"
            )
        if not np.isfinite([vectors.min(), vectors.max()]).all():
            raise InputError("the displacement field holds NaN or infinity; every vector must be finite")
        object.__setattr__(self, "vectors", vectors)

    @classmethod
    def from_voxels(cls, displacement: np.ndarray, grid: Grid) -> DisplacementField:
        """A field from displacements in voxels of ``grid`` along its array axes:
        (D, *grid.shape), as the ops give them (without the batch axis)."""
        linear = grid.affine[:-1, :-1].astype(np.float32)
        displacement = np.asarray(displacement, dtype=np.float32)
        return cls(grid, (linear @ displacement.reshape(grid.ndim, -1)).reshape(displacement.shape))

    @property
    def ndim(self) -> int:
        return self.grid.ndim

    def apply(self, points: np.ndarray) -> np.ndarray:
        points = self._points(points)
        shape = np.asarray(self.grid.shape)
        inside = np.flatnonzero(self.grid.contains(points))
        index = np.clip(self.grid.to_index(points[inside]), 0, shape - 1)
        low = np.minimum(index.astype(np.int64), np.maximum(shape - 2, 0))
        share = index - low
        moved = points.copy()
        for corner in product((0, 1), repeat=self.ndim):
            at = np.minimum(low + corner, shape - 1)
            weight = np.prod(np.where(corner, share, 1.0 - share), axis=1)
            moved[inside] += weight[:, None] * self.vectors[(slice(None), *at.T)].T
        return moved


@dataclass(frozen=True, eq=False)
class Composite(Transform):
    """A chain of transforms, applied last to first as ITK does: ``Composite([affine, field])(x) = affine(field(x))``.

    ``members``: at least one transform, all of one dimension; nested composites are flattened.
    """

    members: Sequence[Transform]

    def __post_init__(self) -> None:
        members = tuple(part for member in self.members for part in member.parts)
        if not members:
            raise InputError("a Composite needs at least one transform; Affine.identity(ndim) is the one that does nothing")
        if len({part.ndim for part in members}) > 1:
            raise InputError(f"all transforms of a Composite need one dimension, got {[part.ndim for part in members]}")
        object.__setattr__(self, "members", members)

    @property
    def parts(self) -> tuple[Transform, ...]:
        return tuple(self.members)

    @property
    def ndim(self) -> int:
        return self.parts[0].ndim

    def apply(self, points: np.ndarray) -> np.ndarray:
        points = self._points(points)
        for part in reversed(self.parts):
            points = part.apply(points)
        return points
