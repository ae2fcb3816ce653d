"""Made anatomy whose place in the world is a function, so that scans of any grid, orientation and known transform can be cut from it."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from regkit.geometry import Affine, DisplacementField, Grid, Image, Transform


class Anatomy:
    """A body (ellipsoid) with soft lumps in it: intensity as a function of world points in mm."""

    def __init__(self, dims: int = 3, seed: int = 0, size: float = 40.0, lumps: int = 90, background: float = 0.0, contrast: float = 400.0):
        random = np.random.default_rng(seed)
        self.axes = size * np.array([1.0, 0.8, 1.1])[:dims]
        self.centres = random.uniform(-0.75, 0.75, (lumps, dims)) * self.axes
        self.widths = random.uniform(0.07, 0.16, lumps) * size
        self.heights = random.choice([-1.0, 1.0], lumps) * random.uniform(0.3, 0.6, lumps)
        self.background, self.contrast, self.size = background, contrast, size

    def __call__(self, points: np.ndarray) -> np.ndarray:
        far = (np.linalg.norm(points / self.axes, axis=1) - 1) * self.size
        inside = 1 / (1 + np.exp(np.clip(far / (0.03 * self.size), -50, 50)))
        value = np.ones(len(points))
        for centre, width, height in zip(self.centres, self.widths, self.heights):
            value += height * np.exp(-0.5 * ((points - centre) ** 2).sum(1) / width**2)
        return self.background + self.contrast * inside * value.clip(0.1, 3)

    def scan(
        self, grid: Grid, transform: Transform | None = None, noise: float = 3.0, dtype=np.float32, seed: int = 1, name: str = "scan"
    ) -> Image:
        """The scan that grid sees: at x the anatomy at T(x)."""
        index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1).reshape(-1, grid.ndim)
        world = grid.to_world(index)
        values = self(world if transform is None else transform.apply(world)).reshape(grid.shape)
        values = values + noise / 400 * self.contrast * np.random.default_rng(seed).normal(size=grid.shape)
        values = np.rint(values) if np.dtype(dtype).kind in "iu" else values
        return Image(values.clip(*_limits(dtype)).astype(dtype), grid, name)


def _limits(dtype) -> tuple[float, float]:
    return (np.iinfo(dtype).min, np.iinfo(dtype).max) if np.dtype(dtype).kind in "iu" else (-np.inf, np.inf)


def grid_at(shape, spacing, angles=None, centre=None) -> Grid:
    """A grid around `centre` (the world's origin), turned by Euler angles in degrees."""
    dims = len(shape)
    affine = np.eye(dims + 1)
    if angles is not None:
        turn = Rotation.from_euler("xyz" if dims == 3 else "z", angles, degrees=True).as_matrix()
        affine[:-1, :-1] = turn[:dims, :dims]
    affine[:-1, :-1] = affine[:-1, :-1] * np.broadcast_to(spacing, (dims,))
    affine[:-1, -1] = -affine[:-1, :-1] @ ((np.array(shape) - 1) / 2)
    if centre is not None:
        affine[:-1, -1] += centre
    return Grid(tuple(shape), affine)


def affine_about(angles, scale: float, shift, centre=None) -> Affine:
    """Rotation by Euler angles (degrees) and scale about `centre`, then a shift in mm."""
    shift = np.asarray(shift, dtype=float)
    dims = len(shift)
    centre = np.zeros(dims) if centre is None else np.asarray(centre)
    turn = Rotation.from_euler("xyz" if dims == 3 else "z", angles, degrees=True).as_matrix()[:dims, :dims] * scale
    matrix = np.eye(dims + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = turn, centre + shift - turn @ centre
    return Affine(matrix)


def wave(grid: Grid, amplitude: float, cycles: float = 1.0) -> DisplacementField:
    """A smooth field of `amplitude` mm along all axes; no folds as long as amplitude stays well under the wave's length over 2 pi."""
    fine = grid.with_shape([min(n, 24) for n in grid.shape])
    index = np.stack(np.meshgrid(*[np.linspace(0, 1, n) for n in fine.shape], indexing="ij"))
    vectors = np.stack([amplitude * np.sin(2 * np.pi * cycles * index[(d + 1) % grid.ndim] + d) for d in range(grid.ndim)])
    return DisplacementField(fine, vectors.astype(np.float32))


@dataclass(frozen=True)
class Pair:
    """Two scans of one anatomy; truth maps fixed world points to moving world points."""

    fixed: Image
    moving: Image
    truth: Transform

    def points(self, count: int = 400, share: float = 0.6) -> np.ndarray:
        """World points within the body of the fixed scan."""
        random = np.random.default_rng(5)
        grid = self.fixed.grid
        middle, half = grid.center, share * 0.5 * np.array(grid.spacing) * grid.shape
        box = random.uniform(-1, 1, (4 * count, grid.ndim))
        return (middle + (box[np.linalg.norm(box, axis=1) < 0.8][:count] * half) @ grid.directions.T)[:count]

    def error(self, transform: Transform) -> float:
        """Mean distance in mm between where a transform and the truth take points of the body."""
        points = self.points()
        return float(np.linalg.norm(transform.apply(points) - self.truth.apply(points), axis=1).mean())

    @property
    def start(self) -> float:
        return self.error(Affine.identity(self.fixed.ndim))


def make_pair(fixed: Grid, moving: Grid, truth: Transform, anatomy: Anatomy | None = None, **options) -> Pair:
    anatomy = anatomy or Anatomy(fixed.ndim)
    return Pair(
        anatomy.scan(fixed, truth, seed=1, name="fixed", **options), anatomy.scan(moving, None, seed=2, name="moving", **options), truth
    )


def shifted(image: Image, matrix: np.ndarray) -> Image:
    """The same voxels elsewhere in the world."""
    return Image(image.data, Grid(image.grid.shape, matrix @ image.grid.affine), image.name)
