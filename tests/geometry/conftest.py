"""Made scenes for the geometry tests: oblique, anisotropic grids away from the origin, different for fixed and moving,
and smooth images on them."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from regkit.geometry import Affine, Composite, DisplacementField, Grid, Image


def oblique_grid(shape, spacing, angles, origin) -> Grid:
    turn = (
        Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
        if len(shape) == 3
        else Rotation.from_euler("z", angles, degrees=True).as_matrix()
    )
    affine = np.eye(len(shape) + 1)
    affine[:-1, :-1] = turn[: len(shape), : len(shape)] * spacing
    affine[:-1, -1] = origin
    return Grid(shape, affine)


@pytest.fixture
def fixed_grid() -> Grid:
    return oblique_grid((21, 26, 17), (1.3, 0.9, 2.1), (12, -25, 160), (31.0, -48.0, 77.0))


@pytest.fixture
def moving_grid(fixed_grid) -> Grid:
    grid = oblique_grid((24, 19, 22), (1.1, 1.7, 1.4), (-20, 15, 35), (0, 0, 0))
    affine = grid.affine.copy()
    affine[:-1, -1] = fixed_grid.center - grid.center
    return Grid(grid.shape, affine)


@pytest.fixture
def flat_grid() -> Grid:
    return oblique_grid((23, 18), (0.7, 1.6), 25, (-40.0, 12.0))


@pytest.fixture
def make_image():
    def make(grid: Grid, dtype=np.float32, seed: int = 0, name: str = "image") -> Image:
        rough = np.random.default_rng(seed).normal(size=grid.shape)
        smooth = gaussian_filter(rough, 1.5)
        return Image(
            (400 * smooth / np.abs(smooth).max() if np.dtype(dtype).kind == "f" else 100 + 90 * smooth / np.abs(smooth).max()).astype(
                dtype
            ),
            grid,
            name,
        )

    return make


@pytest.fixture
def make_transform():
    def make(grid: Grid, seed: int = 0, field_grid: Grid | None = None) -> Composite:
        """A small affine about the grid's centre after a smooth field of a few mm, on a grid of half the resolution unless given."""
        rng = np.random.default_rng(seed)
        ndim = grid.ndim
        linear = np.eye(ndim) + 0.08 * rng.normal(size=(ndim, ndim))
        matrix = np.eye(ndim + 1)
        matrix[:-1, :-1] = linear
        matrix[:-1, -1] = grid.center - linear @ grid.center + rng.normal(size=ndim)
        field_grid = field_grid or grid.with_spacing(tuple(2 * s for s in grid.spacing))
        vectors = np.stack([gaussian_filter(rng.normal(size=field_grid.shape), 1.5) for _ in range(ndim)])
        return Composite([Affine(matrix), DisplacementField(field_grid, 2.5 * vectors / np.abs(vectors).max())])

    return make
