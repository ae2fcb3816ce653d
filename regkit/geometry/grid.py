"""A sampling grid: how many voxels there are and where in the world they lie.

Everything physical in regkit hangs on one affine from voxel index to world point, kept whole (oblique, anisotropic, sheared), so that no
step has to guess an axis order or a flip. World points are RAS mm in 3-D and ITK's physical coordinates in 2-D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from regkit.errors import InputError


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel counts and the affine from voxel index to world, for 2-D and 3-D grids.

    Parameters
    ----------
    shape : D voxel counts in array order (i, j[, k]), D = 2 or 3, each at least 1.
    affine : (D+1, D+1) float64; ``world = affine @ (index, 1)``, in mm. The index of a voxel's centre is an integer.

    Raises
    ------
    InputError : an empty shape, or an affine of the wrong size, not finite, or singular.
    """

    shape: tuple[int, ...]
    affine: np.ndarray

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) not in (2, 3):
            raise InputError(f"a grid has 2 or 3 axes, got shape {shape}")
        if min(shape) < 1:
            raise InputError(f"the grid of shape {shape} has no voxels; every axis needs at least 1")
        affine = np.array(self.affine, dtype=np.float64) + 0.0  # + 0.0 turns -0.0 into 0.0, so that equal grids hash alike
        size = len(shape) + 1
        if affine.shape != (size, size):
            raise InputError(f"a {len(shape)}-D grid needs a {size} x {size} affine, got shape {affine.shape}")
        if not np.isfinite(affine).all():
            raise InputError("the affine holds NaN or infinity; mend the file's header")
        if not np.array_equal(affine[-1], np.eye(size)[-1]):
            raise InputError(f"the affine's last row must be {np.eye(size)[-1].tolist()}, got {affine[-1].tolist()}")
        spacing = np.linalg.norm(affine[:-1, :-1], axis=0)
        if spacing.min() == 0 or abs(np.linalg.det(affine[:-1, :-1] / spacing)) < 1e-6:
            raise InputError(f"the affine is singular (spacing {spacing.round(6).tolist()}, axes not independent); mend the file's header")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def from_spacing(cls, shape: Sequence[int], spacing: Sequence[float] | float = 1.0) -> Grid:
        """An axis-aligned grid whose voxel (0, 0[, 0]) lies at the world's origin; spacing in mm, one value or one an axis."""
        values = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (len(shape),))
        return cls(tuple(shape), np.diag([*values, 1.0]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance in mm between neighbouring voxel centres along each array axis (the norms of the affine's columns)."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:-1, :-1], axis=0))

    @property
    def directions(self) -> np.ndarray:
        """(D, D); column d is the unit vector in the world along array axis d. Orthonormal unless the grid is sheared."""
        return self.affine[:-1, :-1] / np.asarray(self.spacing)

    @property
    def origin(self) -> np.ndarray:
        """(D,) world point of voxel (0, 0[, 0])'s centre."""
        return self.affine[:-1, -1].copy()

    @property
    def center(self) -> np.ndarray:
        """(D,) world point of the middle of the grid."""
        return self.to_world((np.asarray(self.shape, dtype=np.float64) - 1.0)[None] / 2.0)[0]

    @property
    def orientation(self) -> str:
        """Where each array axis points to, the closest of the anatomical directions, as "RAS" or "ASL"; "" in 2-D."""
        if self.ndim == 2:
            return ""
        from nibabel.orientations import aff2axcodes

        return "".join(aff2axcodes(self.affine))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm^3 (area in mm^2 in 2-D)."""
        return float(abs(np.linalg.det(self.affine[:-1, :-1])))

    @property
    def volume_mm3(self) -> float:
        """Volume of the whole box, voxel edge to voxel edge, in mm^3 (area in mm^2 in 2-D)."""
        return self.voxel_volume_mm3 * float(np.prod(self.shape))

    @property
    def corners(self) -> np.ndarray:
        """(2**D, D) world points of the corner voxels' centres."""
        return self.to_world(np.array(list(product(*((0, n - 1) for n in self.shape))), dtype=np.float64))

    def to_world(self, index_points: np.ndarray) -> np.ndarray:
        """(N, D) voxel indices (fractions allowed) -> (N, D) world points in mm, float64."""
        return np.asarray(index_points, dtype=np.float64) @ self.affine[:-1, :-1].T + self.affine[:-1, -1]

    def to_index(self, world_points: np.ndarray) -> np.ndarray:
        """(N, D) world points in mm -> (N, D) voxel indices, float64, fractional and possibly outside the grid."""
        return (np.asarray(world_points, dtype=np.float64) - self.affine[:-1, -1]) @ np.linalg.inv(self.affine[:-1, :-1]).T

    def contains(self, world_points: np.ndarray) -> np.ndarray:
        """(N,) bool: whether each world point lies inside the box, voxel edge to voxel edge."""
        index = self.to_index(world_points)
        return ((index >= -0.5) & (index < np.asarray(self.shape) - 0.5)).all(axis=1)

    def matches(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Same shape, and no voxel centre further than ``tolerance_mm`` from its twin:
        equality that forgives the float32 of file headers."""
        return self.shape == other.shape and float(np.linalg.norm(self.corners - other.corners, axis=1).max()) <= tolerance_mm

    def crop(self, lower: Sequence[int], upper: Sequence[int]) -> Grid:
        """The voxels with ``lower <= index < upper`` on every axis, in their place in the world, as array slices take them."""
        for axis, (low, high, n) in enumerate(zip(lower, upper, self.shape, strict=True)):
            if not 0 <= low < high <= n:
                raise InputError(f"crop needs 0 <= lower < upper <= {n} on axis {axis}, got {low} and {high}")
        return self._moved(lower, [high - low for low, high in zip(lower, upper, strict=True)])

    def pad(self, lower: Sequence[int], upper: Sequence[int]) -> Grid:
        """The grid with ``lower`` more voxels before and ``upper`` more after on every axis."""
        if min(*lower, *upper) < 0:
            raise InputError(f"pad needs counts of at least 0, got {tuple(lower)} and {tuple(upper)}; crop() takes voxels away")
        return self._moved([-n for n in lower], [n + low + high for n, low, high in zip(self.shape, lower, upper, strict=True)])

    def _moved(self, start: Sequence[int], shape: Sequence[int]) -> Grid:
        affine = self.affine.copy()
        affine[:-1, -1] = self.to_world(np.asarray(start, dtype=np.float64)[None])[0]
        return Grid(tuple(shape), affine)

    def with_spacing(self, spacing: Sequence[float] | float) -> Grid:
        """A coarser or finer grid over the same box: its voxel edges cover what this grid's voxel edges cover, in the same directions.

        The shape is ``max(1, round(extent / spacing))``, so that the spacing comes out as ``extent / shape``:
        as near to what was asked as the box allows.
        """
        wanted = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (self.ndim,))
        if not (np.isfinite(wanted).all() and wanted.min() > 0):
            raise InputError(f"spacing must be above 0 mm, got {wanted.tolist()}")
        extent = np.asarray(self.spacing) * self.shape
        return self.with_shape([max(1, int(n)) for n in np.floor(extent / wanted + 0.5)])

    def with_shape(self, shape: Sequence[int]) -> Grid:
        """A grid of ``shape`` voxels over the same box (edges to edges), in the same directions."""
        if tuple(shape) == self.shape:
            return self
        step = np.asarray(self.shape, dtype=np.float64) / np.asarray(shape)
        change = np.diag([*step, 1.0])
        change[:-1, -1] = 0.5 * step - 0.5
        return Grid(tuple(shape), self.affine @ change)

    def overlap(self, other: Grid, samples: int = 24) -> float:
        """Share (0 to 1) of this grid's box that the other's box covers, found by ``samples`` points an axis
        spread evenly over this box."""
        if other.ndim != self.ndim:
            raise InputError(f"a {self.ndim}-D grid cannot overlap a {other.ndim}-D one; give two images of the same dimension")
        axes = [(np.arange(samples) + 0.5) / samples * n - 0.5 for n in self.shape]
        index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, self.ndim)
        return float(other.contains(self.to_world(index)).mean())
