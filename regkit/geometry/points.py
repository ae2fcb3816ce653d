"""Landmarks: points in the world with their names, and the files that people keep them in.

The files disagree about the world: 3-D coordinates are RAS mm in regkit and in its .csv, LPS mm in ITK's and mostly in Slicer's files.
Every reader here knows which its format uses, or refuses, because a landmark with two flipped signs looks like a failed registration.
"""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from regkit.errors import InputError
from regkit.geometry.grid import Grid
from regkit.geometry.itk import lps_flip
from regkit.geometry.write import atomic_path

_SLICER_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
)
_FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


@dataclass(frozen=True, eq=False)
class Points:
    """N named world points.

    Parameters
    ----------
    coordinates : (N, D) float64 world points in mm: RAS in 3-D, ITK's physical coordinates in 2-D.
    names : N names, or None.
    extra : further columns of a .csv file by header, N texts each; kept from reading to writing.
    """

    coordinates: np.ndarray
    names: list[str] | None = None
    extra: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        coordinates = np.asarray(self.coordinates, dtype=np.float64)
        if coordinates.ndim != 2 or coordinates.shape[1] not in (2, 3):
            raise InputError(f"points need shape (N, 2) or (N, 3), got {coordinates.shape}")
        for what, values in (("names", self.names), *self.extra.items()):
            if values is not None and len(values) != len(coordinates):
                raise InputError(f"{len(coordinates)} points need as many {what}, got {len(values)}")
        object.__setattr__(self, "coordinates", coordinates)

    def __len__(self) -> int:
        return len(self.coordinates)

    @property
    def ndim(self) -> int:
        return self.coordinates.shape[1]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the points: see :func:`write_points`."""
        write_points(self, path)


def read_points(path: str | os.PathLike[str], grid: Grid | None = None) -> Points:
    """Read landmarks; the suffix names the format.

    .csv : a header with x, y[, z] (RAS mm in 3-D), optionally name or label; other columns are kept.
    .fcsv : 3D Slicer's older fiducials, RAS or LPS by their header line.
    .mrk.json (.json) : Slicer's markups, RAS or LPS by their coordinateSystem.
    .txt, .pts : elastix and transformix: "point" (LPS mm) or "index" (voxels, which need the ``grid`` they count in), a count,
        then the coordinates.

    Raises InputError, naming file and line, for whatever does not parse.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    suffix = path.suffix.lower()
    readers = {".csv": _read_csv, ".fcsv": _read_fcsv, ".json": _read_markups, ".txt": _read_elastix, ".pts": _read_elastix}
    if suffix not in readers:
        raise InputError(f"{path}: unknown landmark format; use .csv (x,y,z in RAS mm), .fcsv, .mrk.json or elastix .txt")
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark first
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not a text file; landmarks are text") from error
    return _read_elastix(path, text, grid) if suffix in (".txt", ".pts") else readers[suffix](path, text)


def write_points(points: Points, path: str | os.PathLike[str]) -> None:
    """Write landmarks as .csv (RAS mm), .fcsv or .mrk.json (both LPS, 3-D only), or elastix .txt ("point", LPS mm).
    Numbers keep all their digits."""
    path = Path(path)
    writers = {".csv": _csv_text, ".fcsv": _fcsv_text, ".json": _markups_text, ".txt": _elastix_text, ".pts": _elastix_text}
    suffix = path.suffix.lower()
    if suffix not in writers:
        raise InputError(f"{path}: unknown landmark format; use .csv, .fcsv, .mrk.json or .txt")
    if suffix in (".fcsv", ".json") and points.ndim == 2:
        raise InputError(f"{path}: Slicer's points are 3-D, these are 2-D; write .csv or .txt")
    text = writers[suffix](points)
    with atomic_path(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _numbers(values: list[str], where: str) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except ValueError as error:
        raise InputError(f"{where}: {','.join(values)!r} are not numbers; give coordinates in mm") from error
    if not np.isfinite(numbers).all():
        raise InputError(f"{where}: {','.join(values)!r} are not finite; give coordinates in mm or drop the point")
    return numbers


def _read_csv(path: Path, text: str) -> Points:
    reader = csv.reader(text.splitlines())
    rows = ((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))
    header = [cell.strip() for cell in next(rows, (0, []))[1]]
    lower = [cell.lower() for cell in header]
    if "x" not in lower or "y" not in lower:
        raise InputError(f"{path}, line 1: {','.join(header)!r} is no header with x,y,z; add the line x,y,z (RAS mm)")
    axes = [lower.index(axis) for axis in "xyz" if axis in lower]
    named = next((lower.index(key) for key in ("name", "label") if key in lower), None)
    coordinates, names, extra = [], [], {title: [] for at, title in enumerate(header) if at not in axes and at != named}
    for line, row in rows:
        if len(row) != len(header):
            raise InputError(f"{path}, line {line}: {len(row)} columns where the header has {len(header)}; mend the line")
        coordinates.append(_numbers([row[at] for at in axes], f"{path}, line {line}"))
        if named is not None:
            names.append(row[named].strip())
        for at, title in enumerate(header):
            if title in extra:
                extra[title].append(row[at].strip())
    return Points(_stack(coordinates, path, len(axes)), names if named is not None else None, extra)


def _stack(coordinates: list[list[float]], path: Path, ndim: int) -> np.ndarray:
    if not coordinates:
        raise InputError(f"{path}: holds no points; give at least one")
    return np.array(coordinates, dtype=np.float64).reshape(-1, ndim)


def _csv_text(points: Points) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [*([points.names] if points.names is not None else []), *points.coordinates.T.tolist(), *points.extra.values()]
    writer.writerow([*(["name"] if points.names is not None else []), *"xyz"[: points.ndim], *points.extra])
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue()


def _to_ras(coordinates: np.ndarray, system: object, path: Path) -> np.ndarray:
    text = str(system).strip().upper()
    if text in ("RAS", "0"):
        return coordinates
    if text in ("LPS", "1"):
        return coordinates * lps_flip(3)
    raise InputError(f"{path}: coordinate system {system!r} is not known; use RAS or LPS")


def _read_fcsv(path: Path, text: str) -> Points:
    system, coordinates, names = None, [], []
    columns = _FCSV_COLUMNS.split(",")
    for line, content in enumerate(text.splitlines(), start=1):
        if content.startswith("#"):
            key, _, value = content.lstrip("# ").partition("=")
            if key.strip() == "CoordinateSystem":
                system = value.strip()
            elif key.strip() == "columns":
                columns = [column.strip() for column in value.split(",")]
        elif content.strip():
            row = next(csv.reader([content]))
            at = {column: row[i] for i, column in enumerate(columns) if i < len(row)}
            if not {"x", "y", "z"} <= at.keys():
                raise InputError(f"{path}, line {line}: has no x, y and z among its columns {','.join(columns)}; mend the line")
            coordinates.append(_numbers([at["x"], at["y"], at["z"]], f"{path}, line {line}"))
            names.append(at.get("label", ""))
    if system is None:
        raise InputError(f'{path}: no header line says RAS or LPS; add "# CoordinateSystem = LPS" (or RAS)')
    return Points(_to_ras(_stack(coordinates, path, 3), system, path), names)


def _fcsv_text(points: Points) -> str:
    out = io.StringIO()
    out.write(f"# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n# columns = {_FCSV_COLUMNS}\n")
    writer = csv.writer(out, lineterminator="\n")
    for number, (x, y, z) in enumerate((points.coordinates * lps_flip(3)).tolist(), start=1):
        writer.writerow([number, x, y, z, 0, 0, 0, 1, 1, 1, 0, _name(points, number), "", ""])
    return out.getvalue()


def _name(points: Points, number: int) -> str:
    return points.names[number - 1] if points.names is not None else str(number)


def _read_markups(path: Path, text: str) -> Points:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not JSON ({error.msg}); save the markups again") from error
    lists = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(lists, list):
        raise InputError(f'{path}: has no "markups" list; give a Slicer .mrk.json file')
    coordinates, names = [], []
    for markup in lists:
        for number, point in enumerate(markup.get("controlPoints", []), start=1):
            position = point.get("position")
            if not isinstance(position, list) or len(position) != 3:
                raise InputError(f"{path}: control point {number} has no position of three numbers; place it or delete it in Slicer")
            numbers = _numbers([str(value) for value in position], f"{path}, control point {number}")
            coordinates.append(_to_ras(np.array(numbers), markup.get("coordinateSystem", "missing"), path).tolist())
            names.append(str(point.get("label", "")))
    return Points(_stack(coordinates, path, 3), names)


def _markups_text(points: Points) -> str:
    control = [
        {"id": str(number), "label": _name(points, number), "position": position}
        for number, position in enumerate((points.coordinates * lps_flip(3)).tolist(), start=1)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": control}
    return json.dumps({"@schema": _SLICER_SCHEMA, "markups": [markup]}, indent=2) + "\n"


def _read_elastix(path: Path, text: str, grid: Grid | None) -> Points:
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines or lines[0][1] not in (["point"], ["index"]):
        raise InputError(f'{path}, line 1: an elastix point file starts with "point" (mm) or "index" (voxels)')
    is_index = lines[0][1] == ["index"]
    if is_index and grid is None:
        raise InputError(f"{path}, line 1: the points are voxel indices, which need the grid they count in: read_points(path, grid)")
    if len(lines) < 2 or len(lines[1][1]) != 1 or not lines[1][1][0].isdigit():
        raise InputError(f"{path}, line 2: the number of points is missing; write it on the second line")
    count, rows = int(lines[1][1][0]), lines[2:]
    if len(rows) != count:
        raise InputError(f"{path}, line 2: says {count} points, {len(rows)} follow; mend the count or the list")
    ndim = len(rows[0][1]) if rows else 3
    for number, row in rows:
        if len(row) != ndim or ndim not in (2, 3):
            raise InputError(f"{path}, line {number}: {len(row)} values; every line needs the same 2 or 3 coordinates")
    coordinates = _stack([_numbers(row, f"{path}, line {number}") for number, row in rows], path, ndim)
    if not is_index:
        return Points(coordinates * lps_flip(ndim))
    if grid.ndim != ndim:
        raise InputError(f"{path}: {ndim}-D indices cannot count in a {grid.ndim}-D grid; give the grid they were taken in")
    return Points(grid.to_world(coordinates))


def _elastix_text(points: Points) -> str:
    rows = [" ".join(repr(value) for value in row) for row in (points.coordinates * lps_flip(points.ndim)).tolist()]
    return "\n".join(["point", str(len(rows)), *rows, ""])
