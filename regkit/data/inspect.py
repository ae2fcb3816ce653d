"""What is in a case's files, and what is wrong with them: everything, not only the first thing."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from regkit.data.manifest import Case
from regkit.data.scans import read_labels, read_landmarks, read_mask, read_scan
from regkit.errors import InputError
from regkit.geometry import Grid, Image, check_mask
from regkit.metrics.labels import codes, wanted_labels
from regkit.models.input import NetworkInput, Prepared, frame, prepare
from regkit.registration.prepare import Scan

T = TypeVar("T")
SHOWN = (1.0, 99.0)  # percentiles of the intensities that are reported


@dataclass
class Finding:
    """A case, as far as its files could be read."""

    case: Case
    problems: list[str] = field(default_factory=list)
    """Why it cannot be used, a line each."""
    notes: list[str] = field(default_factory=list)
    grid: Grid | None = None
    dtype: str = ""
    intensities: tuple[float, float, float, float] | None = None
    """Minimum, percentiles 1 and 99, maximum."""
    digest: str = ""
    """Of the voxels' values: alike for scans that differ in file name, compression and dtype alone."""
    labels: dict[int, int] | None = None
    """Voxels of each label above 0, on the label map's own grid; None without a label map."""
    points: int | None = None
    prepared: Grid | None = None
    """The prepared scan's grid."""
    stored: int = 0
    """Bytes in the cache."""
    cut: float = 0.0
    """Share of the scan's foreground outside the frame that the network sees."""


def inspect(case: Case, options: NetworkInput, *, multiple: int = 1, label_scale: int = 1) -> Finding:
    """Reads a case's files and prepares its scan.

    Raises UsageError where the configured shape of the frame does not fit.
    """
    found = Finding(case)
    scan = _tried(found, lambda: read_scan(case))
    labels, mask = _tried(found, lambda: read_labels(case)), _tried(found, lambda: read_mask(case))
    points = _tried(found, lambda: read_landmarks(case))
    if labels is not None:
        found.labels = _counts(labels.data)
        if not found.labels:
            found.notes.append(f"case {case.name}: the label map holds no label above 0")
    if points is not None:
        found.points = len(points)
    if scan is None:
        return found
    found.grid, found.dtype = scan.grid, str(scan.data.dtype)
    found.intensities = tuple(float(v) for v in np.percentile(scan.data[tuple(slice(None, None, 2) for _ in scan.grid.shape)], SHOWN))
    found.intensities = (float(scan.data.min()), *found.intensities, float(scan.data.max()))
    values = np.ascontiguousarray(scan.data, dtype=np.float32)
    found.digest = hashlib.sha256(str(values.shape).encode() + values.tobytes()).hexdigest()
    for what, other in (("labels", labels), ("mask", mask)):
        if other is not None:
            _compare(found, scan, what, other)
    if points is not None:
        if points.ndim != scan.ndim:
            found.problems.append(
                f"case {case.name}: landmarks are {points.ndim}-D and the scan {scan.ndim}-D; give {scan.ndim} coordinates"
            )
        elif (outside := int((~scan.grid.contains(points.coordinates)).sum())) == len(points):
            found.problems.append(f"case {case.name}: no landmark lies inside the scan; give world coordinates in mm (RAS in 3-D)")
        elif outside:
            found.notes.append(f"case {case.name}: {outside} of {len(points)} landmarks lie outside the scan")
    prepared = prepare(scan, None, options)
    found.prepared = prepared.image.grid
    voxels = int(np.prod(found.prepared.shape))
    label_bytes = 0 if labels is None else labels.data.itemsize * label_scale**scan.ndim
    found.stored = voxels * (4 + label_bytes + (mask is not None))
    if options.shape is not None:  # else every frame holds the whole scan
        found.cut = _cut(prepared, frame(prepared, options, multiple))
    return found


def _cut(prepared: Prepared, seen: Grid) -> float:
    inside = Scan(prepared.image, None).foreground()
    start = np.round(prepared.image.grid.to_index(seen.origin[None])[0]).astype(int)
    box = tuple(slice(max(0, low), max(0, low + n)) for low, n in zip(start, seen.shape))
    return 1.0 - float(inside[box].sum()) / float(inside.sum())


def _tried(found: Finding, work: Callable[[], T]) -> T | None:
    try:
        return work()
    except InputError as error:
        if str(error) not in found.problems:  # landmarks need the scan, too
            found.problems.append(str(error))
        return None


def _counts(data: np.ndarray) -> dict[int, int]:
    values = wanted_labels(data, None)
    counts = np.bincount(codes(data, np.array(values)).ravel(), minlength=len(values)) if values else []
    return {value: int(count) for value, count in zip(values, counts)}


def _compare(found: Finding, scan: Image, what: str, other: Image) -> None:
    """A label map (or mask) with the scan that it belongs to: it may have a grid of its own, but must lie in the same place."""
    name = f"case {found.case.name}"
    if other.ndim != scan.ndim:
        found.problems.append(f"{name}: {what} are {other.ndim}-D and the scan is {scan.ndim}-D; give maps of the scan's dimension")
        return
    if other.data.any() or what == "mask":
        _tried(found, lambda: check_mask(other, scan, f"{name}, {what}"))
    if other.grid.matches(scan.grid, 0.01):
        return
    if other.grid.shape != scan.grid.shape:
        how = f"shape {_times(other.grid.shape)}, the scan {_times(scan.grid.shape)}"
    else:
        how = f"voxels up to {np.linalg.norm(other.grid.corners - scan.grid.corners, axis=1).max():.3g} mm from the scan's"
    found.notes.append(f"{name}: {what} have a grid of their own ({how}), and are taken by their place in the world")


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
