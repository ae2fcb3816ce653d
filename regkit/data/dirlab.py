"""DIR-Lab's lung CT as it is distributed: headerless .img volumes and lists of 300 landmarks, of ten 4DCT and ten COPD pairs.

    4dct  T00 is the end of inhaling, T50 of exhaling        caseN_T00_s.img, caseN_T00-ssm.img, caseN_T00.img; CaseN_300_T00_xyz.txt, ...
    copd  breath-hold scans                                  copdN_iBHCT.img, copdN_eBHCT.img;                copdN_300_iBH_xyz_r1.txt, ...

Volumes are little-endian int16, x fastest, of Hounsfield units + 1024; landmarks are voxels x y z counted from 1. The files say nothing of
the patient's directions: scans come with x to the patient's left and y to the back, as DIR-Lab shows them, and slices in their order.
Files are found by name, in whatever folders below the data's own. The data is given out on request (dir-lab.com).

Source: Castillo et al., Phys. Med. Biol. 54 (2009) 1849 and 58 (2013) 2861, with the sizes and spacings of the project's own table.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from regkit.errors import InputError, UsageError
from regkit.geometry import Grid, Image, Points

Set = Literal["4dct", "copd"]
Phase = Literal["inhale", "exhale"]

SLICE_MM = 2.5
IN_PLANE = {"4dct": (256, 256, 256, 256, 256, 512, 512, 512, 512, 512), "copd": (512,) * 10}
SLICES = {"4dct": (94, 112, 104, 99, 106, 128, 136, 128, 128, 120), "copd": (121, 102, 126, 126, 131, 119, 112, 115, 116, 135)}
PIXEL_MM = {
    "4dct": (0.97, 1.16, 1.15, 1.13, 1.10, 0.97, 0.97, 0.97, 0.97, 0.97),
    "copd": (0.625, 0.645, 0.652, 0.590, 0.647, 0.633, 0.625, 0.586, 0.644, 0.742),
}
AIR = 1024  # what is stored of 0 HU
LOWEST = -1024.0  # Hounsfield units; what lies outside the scanner's field is stored lower
# By phase, with the case's number; letters in either case.
IMAGES = {
    "4dct": {"inhale": r"case0*{n}_t00([-_]s(sm)?)?\.img", "exhale": r"case0*{n}_t50([-_]s(sm)?)?\.img"},
    "copd": {"inhale": r"copd0*{n}_ibhct\.img", "exhale": r"copd0*{n}_ebhct\.img"},
}
LANDMARKS = {
    "4dct": {"inhale": r"case0*{n}_(dirlab)?300_t00_xyz\w*\.txt", "exhale": r"case0*{n}_(dirlab)?300_t50_xyz\w*\.txt"},
    "copd": {"inhale": r"copd0*{n}_(dirlab)?300_ibh_xyz\w*\.txt", "exhale": r"copd0*{n}_(dirlab)?300_ebh_xyz\w*\.txt"},
}


@dataclass(frozen=True, eq=False)
class DirLabCase:
    """A pair: Hounsfield units from -1024, and the landmarks in world mm, the same ones in the same order."""

    name: str
    fixed: Image
    moving: Image
    fixed_points: Points
    moving_points: Points


def grid_of(which: Set, number: int) -> Grid:
    """The grid of both scans of a case, 1 to 10. Raises UsageError for others."""
    if which not in SLICES or not 1 <= number <= 10:
        raise UsageError(f"DIR-Lab has cases 1 to 10 of 4dct and copd, but {which} {number} was asked for")
    side, pixel = IN_PLANE[which][number - 1], PIXEL_MM[which][number - 1]
    return Grid((side, side, SLICES[which][number - 1]), np.diag([-pixel, -pixel, SLICE_MM, 1.0]))


def read_dirlab(data: str | os.PathLike[str], which: Set, number: int, fixed: Phase = "inhale") -> DirLabCase:
    """Case `number` of a set, from the files below the folder `data`. fixed: the phase whose scan is the fixed one.

    Raises InputError, naming it, for a file that is missing, there twice, of another size than the case's, or not a list of landmarks.
    """
    grid = grid_of(which, number)
    phases = (fixed, "exhale" if fixed == "inhale" else "inhale")
    if fixed not in ("inhale", "exhale"):
        raise UsageError(f"fixed must be inhale or exhale, but is {fixed}")
    files = _files(Path(data))
    images = [
        _read_volume(_find(files, data, IMAGES[which][phase].format(n=number)), grid, name)
        for phase, name in zip(phases, ("fixed", "moving"))
    ]
    points = [_read_landmarks(_find(files, data, LANDMARKS[which][phase].format(n=number)), grid) for phase in phases]
    if len(points[0]) != len(points[1]):
        raise InputError(f"{which} {number}: {len(points[0])} landmarks in the fixed scan, but {len(points[1])} in the moving one")
    return DirLabCase(f"{which}-{number}", *images, *points)


def available(data: str | os.PathLike[str], which: Set) -> list[int]:
    """The numbers of the cases whose inhale scan lies below the folder."""
    names = [path.name.lower() for path in _files(Path(data))]
    return [n for n in range(1, 11) if any(re.fullmatch(IMAGES[which]["inhale"].format(n=n), name) for name in names)]


def _files(data: Path) -> list[Path]:
    if not data.is_dir():
        raise InputError(f"no such folder: {data}; give the one that holds DIR-Lab's files")
    return sorted(path for path in data.rglob("*") if path.suffix.lower() in (".img", ".txt"))


def _find(files: list[Path], data: str | os.PathLike[str], pattern: str) -> Path:
    found = [path for path in files if re.fullmatch(pattern, path.name.lower())]
    if len(found) != 1:
        told = "no file" if not found else f"{len(found)} files ({', '.join(map(str, found))})"
        raise InputError(f"{told} below {os.fspath(data)} with a name like {pattern}; one is needed")
    return found[0]


def _read_volume(path: Path, grid: Grid, name: str) -> Image:
    wanted = 2 * int(np.prod(grid.shape))
    if path.stat().st_size != wanted:
        size = "x".join(map(str, grid.shape))
        raise InputError(f"{path}: has {path.stat().st_size} bytes, but {size} voxels of int16 are {wanted}; is it another case's?")
    stored = np.fromfile(path, dtype="<i2").reshape(grid.shape, order="F")
    return Image(np.maximum(stored.astype(np.float32) - AIR, LOWEST), grid, name)


def _read_landmarks(path: Path, grid: Grid) -> Points:
    try:
        voxels = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise InputError(f"{path}: not a list of landmarks, x y z a line: {error}") from None
    if voxels.shape[1:] != (3,) or not len(voxels):
        raise InputError(f"{path}: landmarks need 3 numbers a line, x y z, but came as {voxels.shape}")
    if not ((voxels >= 1) & (voxels <= np.array(grid.shape))).all():  # NaN too
        raise InputError(
            f"{path}: landmarks are voxels counted from 1, up to {grid.shape}, but lie from {voxels.min(0)} to {voxels.max(0)}"
        )
    return Points(grid.to_world(voxels - 1))
