"""Your own data as a table: a CSV file with one scan a row, from which the pairs to register and to learn from follow.

A row says where a scan's files are and what it may be paired with. Pairs are never listed: with n scans there are n (n - 1) of them, and
which of them are allowed follows from the rows' groups and roles.
"""

import csv
import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from itertools import accumulate
from pathlib import Path
from typing import Literal

from regkit.errors import InputError, UsageError

SPLITS = ("train", "validation", "test")
ROLES = ("fixed", "moving", "both")
FILES = ("image", "label", "mask", "landmarks")
_SUFFIXES = (".nii.gz", ".mrk.json")  # what Path.stem would cut in half


@dataclass(frozen=True)
class Case:
    """One scan: a row of the manifest."""

    name: str
    """Unique in its manifest."""
    image: Path
    label: Path | None = None
    mask: Path | None = None
    landmarks: Path | None = None
    split: Literal["train", "validation", "test"] = "train"
    group: str = ""
    """Only scans of one group are paired."""
    role: Literal["fixed", "moving", "both"] = "both"


class Pairs(Sequence[tuple[int, int]]):
    """All ordered pairs (fixed, moving) of distinct cases that groups and roles allow, as places in `cases`; none is held in memory."""

    def __init__(self, cases: Sequence[Case]):
        self.cases = tuple(cases)
        moving: dict[str, list[int]] = {}
        self._rank = [-1] * len(self.cases)  # place among what can move in its group; -1: it can not
        for at, case in enumerate(self.cases):
            if case.role != "fixed":
                members = moving.setdefault(case.group, [])
                self._rank[at] = len(members)
                members.append(at)
        self._fixed = [at for at, case in enumerate(self.cases) if case.role != "moving"]
        self._moving = [moving.get(self.cases[at].group, []) for at in self._fixed]
        counts = (len(members) - (self._rank[at] >= 0) for at, members in zip(self._fixed, self._moving))
        self._ends = list(accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, k: int) -> tuple[int, int]:
        if not 0 <= k < len(self):
            raise IndexError(f"pair {k} of {len(self)}")
        row = bisect_right(self._ends, k)
        at = k - (self._ends[row - 1] if row else 0)
        fixed = self._fixed[row]
        return fixed, self._moving[row][at + (0 <= self._rank[fixed] <= at)]  # past the scan itself


@dataclass(frozen=True)
class Manifest:
    """The cases of a CSV file, in its order."""

    cases: tuple[Case, ...]
    path: Path | None = None

    def split(self, name: str) -> tuple[Case, ...]:
        """The cases of a split ("train", "validation" or "test"). Raises UsageError for another name."""
        if name not in SPLITS:
            raise UsageError(f"there is no split {name!r}; there are {', '.join(SPLITS)}")
        return tuple(case for case in self.cases if case.split == name)

    def pairs(self, split: str) -> Pairs:
        """The ordered pairs (fixed, moving) of a split, as places in `Manifest.split(split)`."""
        return Pairs(self.split(split))


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Reads a manifest.

    A CSV file with a header. Paths are relative to its folder, or absolute. Columns:

        image      the scan; the only column that is needed
        name       unique; by default the image's file name without suffix
        label      label map; mask; landmarks: files that belong to the scan
        split      train (the default), validation (val) or test
        group      only scans of one group are paired with each other, e.g. the phases of one patient; blank is a group, too
        role       fixed or moving, where a scan may be only one of them; blank: both

    Raises InputError, one line that names the file, the row, what came and what is needed, for the first problem that there is.
    """
    manifest, problems = scan_manifest(path)
    if problems:
        more = f" ({len(problems) - 1} more problems: regkit data {path} lists them)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
    return manifest


def scan_manifest(path: str | os.PathLike[str]) -> tuple[Manifest, list[str]]:
    """The cases of the rows that can be read, and one line for each problem. Raises InputError where there is no table at all."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark first
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give a CSV file with a header and one scan a row") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file; give a CSV file with a header and one scan a row") from None
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"{path}, row {reader.line_num}: {error}; give a CSV file with a header and one scan a row") from None
    if not rows:
        raise InputError(f"{path} is empty; it needs a header (image,label,split) and one scan a row")
    line, header = rows[0]
    columns = [cell.strip().lower() for cell in header]
    _check_header(columns, f"{path}, row {line}")
    cases, problems, seen = [], [], {}
    for line, row in rows[1:]:
        where = f"{path}, row {line}"
        if len(row) != len(columns):
            problems.append(f"{where}: {len(row)} cells where the header has {len(columns)} columns ({','.join(columns)}); mend the row")
            continue
        case, wrong = _case(dict(zip(columns, (cell.strip() for cell in row))), path.parent, where)
        problems += wrong
        if case is None:
            continue
        if case.name in seen:
            first = seen[case.name]
            problems.append(f"{where}: the name {case.name} is that of row {first}, too; give each scan a name of its own (column name)")
            continue
        seen[case.name] = line
        cases.append(case)
    if not rows[1:]:
        problems.append(f"{path} has a header but no rows; add one scan a row")
    return Manifest(tuple(cases), path), problems


def write_manifest(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """Writes a manifest that `read_manifest` reads back: files below its folder by their relative path, others by their absolute one."""
    from regkit.geometry import atomic_path

    path = Path(path)
    folder = path.absolute().parent
    out = io.StringIO()
    names = [field.name for field in fields(Case)]
    used = [name for name in names if name in ("name", "image", "split") or any(_cell(case, name, folder) for case in manifest.cases)]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(used)
    writer.writerows([_cell(case, name, folder) for name in used] for case in manifest.cases)
    with atomic_path(path) as draft:
        draft.write_text(out.getvalue(), encoding="utf-8")


def _cell(case: Case, name: str, folder: Path) -> str:
    value = getattr(case, name)
    if name in FILES:
        if value is None:
            return ""
        value = value.absolute()
        return str(value.relative_to(folder) if value.is_relative_to(folder) else value)
    return "" if (name, value) == ("role", "both") else value


def _check_header(columns: list[str], where: str) -> None:
    known = [field.name for field in fields(Case)]
    if len(columns) == 1 and (";" in columns[0] or "\t" in columns[0]):
        raise InputError(f"{where}: columns are separated by {';' if ';' in columns[0] else 'tabs'}; separate them by commas")
    for column in columns:
        if column not in known:
            near = get_close_matches(column, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise InputError(f"{where}: unknown column {column!r}; {hint}")
        if columns.count(column) > 1:
            raise InputError(f"{where}: column {column} comes {columns.count(column)} times; leave one")
    if "image" not in columns:
        raise InputError(f"{where}: there is no column image among {', '.join(columns)}; it says where each scan is")


def _case(cells: dict[str, str], folder: Path, where: str) -> tuple[Case | None, list[str]]:
    """The case of a row, None where it can't be used, and what is wrong with the row."""
    if not cells["image"]:
        return None, [f"{where}: the image is blank; give the scan's path"]
    found = {name: folder / cells[name] for name in FILES if cells.get(name)}
    problems = [f"{where}: {name} {file} does not exist; mend the path" for name, file in found.items() if not file.exists()]
    split, role = cells.get("split", "").lower() or "train", cells.get("role", "").lower() or "both"
    split = "validation" if split == "val" else split
    for name, value, known in (("split", split, SPLITS), ("role", role, ROLES)):
        if value not in known:
            near = get_close_matches(value, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it must be {', '.join(known)} or blank"
            problems.append(f"{where}: {name} is {cells[name]!r}; {hint}")
    if problems:
        return None, problems
    name = cells.get("name") or stem(found["image"])
    return Case(name=name, split=split, group=cells.get("group", ""), role=role, **found), []


def stem(path: Path) -> str:
    """A file's name without its suffix; .nii.gz is one."""
    name = path.name
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem
