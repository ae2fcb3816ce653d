"""A small made registration result, 2-D or 3-D, with everything that the report reads."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from regkit.geometry import Affine, Composite, DisplacementField, Grid, Image


@dataclass(frozen=True)
class Stage:
    iterations: tuple[int, ...] = (20, 10)
    weight: float = 0.5


@dataclass(frozen=True)
class Config:
    preset: str = "generic"
    radius: int | None = None
    refine: Stage = Stage()


def ball(grid: Grid, centre: np.ndarray, radius: float) -> np.ndarray:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1).reshape(-1, grid.ndim)
    far = np.linalg.norm(grid.to_world(index) - centre, axis=1).reshape(grid.shape)
    return (1000 / (1 + np.exp(far - radius))).astype(np.float32)


def build(
    ndim: int = 3, *, folded: bool = False, masked: bool = False, apart: bool = False, warnings: tuple[str, ...] = ()
) -> SimpleNamespace:
    shape, spacing = ((24, 20, 16), (1.0, 1.5, 2.0)) if ndim == 3 else ((40, 32), (0.5, 0.7))
    grid = Grid(shape, np.diag([*spacing, 1.0]))
    shift = np.full(ndim, 500.0 if apart else 2.0)
    affine = np.eye(ndim + 1)
    affine[:-1, -1] = shift
    vectors = np.zeros((ndim, *shape), np.float32)
    vectors[0] = 0.4 * np.sin(np.arange(shape[0]) / 3).reshape(-1, *(1,) * (ndim - 1))
    if folded:
        vectors[(0, *(slice(n // 2 - 1, n // 2 + 1) for n in shape))] = np.float32(20.0)
    moving_affine = np.diag([*spacing, 1.0])
    moving_affine[:-1, -1] = shift if apart else 0.0
    fixed = Image(ball(grid, grid.center, 8.0), grid, "fixed")
    moving = Image(ball(Grid(shape, moving_affine), grid.center + shift, 8.0), Grid(shape, moving_affine), "moving")
    record = SimpleNamespace(
        seconds={"affine": 1.25, "refine": 2.5},
        curves={"affine": [3.0, 2.0, 1.5], "refine": [1.0, 0.5]},
        notes=["start: mass centres"],
        warnings=list(warnings),
        peak_memory_mb=321.0,
        peak_gpu_memory_mb=None,
        seed=7,
        threads=2,
        device="cpu",
        metrics={
            "folds": 0.0,
            "sdlogj": 0.05,
            "displacement_mm": {"p50": 1.0, "p95": 2.0},
            "inverse_consistency_mm": {"mean": 0.01, "max": 0.1},
            "similarity_before": 0.2,
            "similarity_after": 0.9,
        },
        inputs={"fixed": {"path": "/scans/a & b.nii.gz", "sha256": "ab" * 32, "dtype": "int16"}},
        versions={"regkit": "0.1.0"},
        model=None,
        features=None,
    )
    return SimpleNamespace(
        fixed=fixed,
        moving=moving,
        moved=Image(fixed.data.copy(), grid, "moved"),
        fixed_mask=Image((fixed.data > 500).astype(np.uint8), grid) if masked else None,
        moving_mask=None,
        transform=Composite([Affine(affine), DisplacementField(grid, vectors)]),
        inverse=Affine(affine).inverse(),
        config=Config(),
        record=record,
    )


@pytest.fixture
def make_result():
    return build
