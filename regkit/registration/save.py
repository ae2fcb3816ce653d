"""The OUT directory of a registration: what is in it, writing it whole or not at all, and reading it back to apply the transform.

moved.nii.gz        the moving scan on the fixed grid (3-D); moved.tif (float32) in 2-D, where NIfTI's axes and signs mean nothing
xfm.h5              ITK composite transform, LPS: fixed points to moving points (what resampling the moving scan needs)
xfm_inverse.h5      the way back: moving points to fixed points
report.html         pictures and tables
run.json            config, versions, input hashes, both grids, seed, times, peak memory, metrics, notes and warnings
"""

import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regkit.errors import InputError, UsageError
from regkit.geometry import Grid, Transform, load_transform, save_transform, write_image, write_learn2reg
from regkit.geometry.learn2reg import learn2reg_name

TRANSFORM, INVERSE, REPORT, RUN = "xfm.h5", "xfm_inverse.h5", "report.html", "run.json"
MOVED = {2: "moved.tif", 3: "moved.nii.gz"}
FORMAT = 1  # of run.json


def save_result(result: Any, directory: str | os.PathLike[str], *, report: dict[str, Any] | None = None) -> Path:
    """Write a Result's OUT directory and return its path.

    The files are written in a directory beside it and moved in place when all are whole; an existing directory keeps its other files.
    report: further arguments of regkit.report.write_report (evaluation, fixed_points, moving_points).

    Raises UsageError when `directory` is a file or cannot be written.
    """
    from regkit.report import write_report

    directory = Path(directory)
    check_output(directory)
    moved = MOVED[result.fixed.grid.ndim]
    with _drafts(directory) as drafts:
        write_image(result.moved, drafts / moved)
        save_transform(result.transform, drafts / TRANSFORM)
        save_transform(result.inverse, drafts / INVERSE)
        write_report(result, drafts / REPORT, **(report or {}))
        text = json.dumps(to_json(run_info(result)), indent=2, allow_nan=False)
        (drafts / RUN).write_text(text + "\n", encoding="utf-8")
    for stale in set(MOVED.values()) - {moved}:
        (directory / stale).unlink(missing_ok=True)
    return directory


def save_learn2reg(result: Any, directory: str | os.PathLike[str], *, half: bool = False, case: tuple[str, str] | None = None) -> Path:
    """Write a Result's displacement into `directory` as Learn2Reg's evaluation takes it, and return the file's path.

    NAME_0001_0000.nii.gz and NAME_0001_0001.nii.gz give disp_0001_0001.nii.gz, scans of other modalities disp_0001_0000_0004_0000.nii.gz.
    half: float16 at half resolution in disp_0001_0004.npz, what Learn2Reg took in 2020 and 2021; see regkit.geometry.write_learn2reg.
    case: what stands for fixed and moving scan in the file's name, where the scans' own names do not tell.

    Raises UsageError when nothing says what the scans are called, or `directory` cannot be written, InputError as write_learn2reg does.
    """
    check_output(directory)
    if case is None:
        paths = [result.record.inputs.get(name, {}).get("path") for name in ("fixed", "moving")]
        if None in paths:
            raise UsageError('the scans came without files, so nothing says what Learn2Reg calls them; add case=("0001", "0004")')
        name = learn2reg_name(*paths, half=half)
    else:
        name = f"disp_{case[0]}_{case[1]}"
    path = Path(directory) / f"{name}{'.npz' if half else '.nii.gz'}"
    write_learn2reg(path, result.transform, result.fixed.grid, result.moving.grid, half=half)
    return path


def check_output(directory: str | os.PathLike[str]) -> None:
    """Refuse an output directory that cannot be written, before any work is done. Raises UsageError."""
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file; name a directory for the results")
    home = directory.absolute()
    while not home.exists():
        home = home.parent
    if not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
        raise UsageError(f"{directory} cannot be made: {home} is not a directory that you may write to")


def run_info(result: Any) -> dict[str, Any]:
    """What run.json holds, before conversion to JSON."""
    record = result.record
    return {
        "format": FORMAT,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "files": {"moved": MOVED[result.fixed.grid.ndim], "transform": TRANSFORM, "inverse": INVERSE, "report": REPORT},
        "preset": result.config.preset,
        "config": result.config,
        "inputs": record.inputs,
        "model": record.model,
        "features": record.features,
        "grids": {
            name: {"shape": image.grid.shape, "affine": image.grid.affine}
            for name, image in (("fixed", result.fixed), ("moving", result.moving))
        },
        "seed": record.seed,
        "threads": record.threads,
        "device": str(record.device),
        "versions": record.versions,
        "seconds": record.seconds,
        "peak_memory_mb": record.peak_memory_mb,
        "peak_gpu_memory_mb": record.peak_gpu_memory_mb,
        "metrics": record.metrics,
        "notes": record.notes,
        "warnings": record.warnings,
        "curves": record.curves,
    }


def to_json(value: Any) -> Any:
    """Dataclasses, arrays, tuples, paths and numpy numbers as what JSON knows; numbers that are not finite become null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


@dataclass(frozen=True)
class SavedRun:
    """A registration as its OUT directory keeps it."""

    transform: Transform  # fixed points to moving points, world mm
    inverse: Transform  # moving points to fixed points
    fixed_grid: Grid
    moving_grid: Grid
    info: dict[str, Any]  # run.json


def load_run(directory: str | os.PathLike[str]) -> SavedRun:
    """Read an OUT directory. Raises InputError when it is not one."""
    directory = Path(directory)
    missing = [name for name in (RUN, TRANSFORM, INVERSE) if not (directory / name).is_file()]
    if missing:
        raise InputError(
            f"{directory} is not the output of regkit register: {', '.join(missing)} missing; give the directory named by its -o"
        )
    try:
        info = json.loads((directory / RUN).read_text(encoding="utf-8"))
        grids = [
            Grid(tuple(info["grids"][name]["shape"]), np.array(info["grids"][name]["affine"], dtype=float)) for name in ("fixed", "moving")
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{directory / RUN} is damaged ({type(error).__name__}: {error}); register again") from error
    return SavedRun(load_transform(directory / TRANSFORM), load_transform(directory / INVERSE), *grids, info)


@contextmanager
def _drafts(directory: Path) -> Iterator[Path]:
    """A directory beside `directory`; its files move in place when the block ends well, and it is gone in any case."""
    target = directory.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    drafts = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}")
    drafts.mkdir()
    try:
        yield drafts
        if not target.exists():
            os.rename(drafts, target)
            return
        for file in sorted(drafts.iterdir(), key=lambda file: file.name == RUN):  # run.json last: it vouches for the others
            os.replace(file, target / file.name)
    finally:
        shutil.rmtree(drafts, ignore_errors=True)
