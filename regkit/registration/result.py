"""What a registration gives back."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from regkit.errors import UsageError
from regkit.geometry import Composite, Grid, Image, Points, as_image, read_points, resample
from regkit.registration.config import Config

Space = Literal["fixed", "moving"]


@dataclass
class Record:
    """How a registration went."""

    seconds: dict[str, float] = field(default_factory=dict)  # per stage
    curves: dict[str, list[float]] = field(default_factory=dict)  # loss per iteration
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    peak_memory_mb: float = 0.0
    peak_gpu_memory_mb: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] | None = None  # of a trained network: name, path, sha256, card
    features: dict[str, Any] | None = None  # of a network whose features the embedding compares: the same


@dataclass
class Result:
    """A moving scan aligned with a fixed one.

    transform maps fixed-space points to moving-space points (mm); inverse maps moving-space points to fixed-space points. Resampling pulls,
    so `transform` is what brings the moving scan onto the fixed grid.
    """

    fixed: Image
    moving: Image
    moved: Image
    transform: Composite
    inverse: Composite
    config: Config
    record: Record
    fixed_mask: Image | None = None
    moving_mask: Image | None = None

    def warp(self, image: Any, to: Space = "fixed", *, labels: bool | None = None) -> Image:
        """An image of the other space on the grid of `to`. Integer images are labels (nearest, dtype kept) unless `labels` says otherwise.

        image: Image, path, array with the moving (fixed) scan's grid, nibabel or SimpleITK image.
        """
        target, transform = (self.fixed, self.transform) if to == "fixed" else (self.moving, self.inverse) if to == "moving" else _space(to)
        source = self.moving if to == "fixed" else self.fixed
        if isinstance(image, np.ndarray):
            image = Image(image, source.grid)
        return resample(as_image(image), target.grid, transform, labels=labels)

    def map_points(self, points: Any, from_: Space = "moving", to: Space = "fixed") -> Any:
        """Points (N, D) in world mm (RAS in 3-D), Points, or a landmark file, carried from one space to the other;
        the same kind comes back."""
        for space in (from_, to):
            if space not in ("fixed", "moving"):
                _space(space)
        if isinstance(points, (str, os.PathLike)):
            points = read_points(points, (self.moving if from_ == "moving" else self.fixed).grid)
        if from_ == to:
            return points
        transform = self.transform if from_ == "fixed" else self.inverse
        if isinstance(points, Points):
            return Points(transform.apply(points.coordinates), points.names, points.extra)
        return transform.apply(np.asarray(points, dtype=np.float64))

    def evaluate(
        self, fixed_labels: Any = None, moving_labels: Any = None, fixed_points: Any = None, moving_points: Any = None
    ) -> dict[str, Any]:
        """Dice, HD95 and ASSD of label maps, TRE of landmarks, and folds and SDlogJ of the field; see regkit.registration.evaluate.

        Labels: whatever `warp` takes, arrays having the scan's grid; points: Points, landmark files, or (N, D) in world mm (RAS in 3-D).
        """
        from regkit.registration.evaluate import deformation, evaluate

        labels = [None if x is None else as_image(Image(x, scan.grid) if isinstance(x, np.ndarray) else x, name) for x, scan, name in (
            (fixed_labels, self.fixed, "fixed labels"), (moving_labels, self.moving, "moving labels"))]  # fmt: skip
        points = [_points(x, scan.grid) for x, scan in ((fixed_points, self.fixed), (moving_points, self.moving))]
        return evaluate(self.transform, *labels, *points) | deformation(self.record.metrics)

    def report(self, path: str | os.PathLike[str], **more: Any) -> Path:
        """Writes the self-contained HTML report."""
        from regkit.report import write_report

        write_report(self, path, **more)
        return Path(path)

    def save(
        self,
        directory: str | os.PathLike[str],
        format: Literal["run", "l2r"] = "run",
        *,
        half: bool = False,
        case: tuple[str, str] | None = None,
    ) -> Path:
        """Writes into `directory` and returns the path of what was written.

        format: "run" writes moved scan, both transforms, report and run.json, see regkit.registration.save, and returns the directory.
            "l2r" adds one file, Learn2Reg's displacement disp_FFFF_MMMM.nii.gz, see regkit.registration.save.save_learn2reg.
        half, case: of "l2r": the half-resolution .npz of 2020; the names of fixed and moving scan, ("0001", "0004").
        """
        from regkit.registration.save import save_learn2reg, save_result

        if format == "l2r":
            return save_learn2reg(self, directory, half=half, case=case)
        if format != "run":
            raise UsageError(f'format is "run" or "l2r", got {format!r}')
        if half or case:
            raise UsageError('half and case go with format="l2r"')
        return save_result(self, directory)


def _points(points: Any, grid: Grid) -> Points | None:
    if points is None or isinstance(points, Points):
        return points
    if isinstance(points, (str, os.PathLike)):
        return read_points(points, grid)
    return Points(np.asarray(points if isinstance(points, (np.ndarray, Sequence)) else list(points), dtype=np.float64))


def _space(name: object):
    raise UsageError(f'a space is "fixed" or "moving", got {name!r}')
