"""Learn2Reg's evaluation of a directory of displacement fields, and beside its figures what they hide.

Their result is {"name", "aggregates", "cases", "eval_version"}; ours is one more entry, "regkit", of the same build.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from regkit.geometry.learn2reg import read_learn2reg
from regkit.registration.learn2reg_task import Pair, Task, read_labels, read_landmarks, read_spacing

EVAL_VERSION = "2.0"  # of theirs, which this follows


def evaluate_learn2reg(
    task: Task, fields: dict[str, Path], data: str | os.PathLike[str], progress: Callable[[float, str], None] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Measure every pair of `task`.

    fields: from find_fields. data: the directory in which the scans' paths, and beside them labelsTr, masksTr and the like, lie.
    progress(fraction, case): called after every case.

    Returns (results, warnings). Results are theirs (see this module) with, per case, {method: {"mean", "detailed"}} and "num_foldings",
    which theirs counts after the shift and the clip and which so is 0 always; and over the cases {method: {"mean", "std", "30"}}, "30"
    being the 70th percentile for sdlogj and tre, else the 30th, for hd95 too, where it tells of the best cases. "regkit" has

    - cases: "sdlogj" and "folds" (see regkit.metrics.learn2reg); NAME_mm: HD95 as regkit.metrics.hd95 has it, in mm; NAME_linear: TRE, the
      field taken linearly;
    - aggregates of all measures, theirs and these: "mean", "std", and "worst30", the percentile that 30 % of the cases are no better than;
      cases without a value (NaN) do not count, "n" says how many do. In theirs one such case makes the mean NaN.

    Raises InputError for what is missing in `data` or does not fit.
    """
    cases, extra, warnings = {}, {}, []
    for number, pair in enumerate(task.pairs, start=1):
        cases[pair.key], extra[pair.key] = _measure(task, pair, read_learn2reg(fields[pair.key], task.shape), Path(data), warnings)
        if progress is not None:
            progress(number / len(task.pairs), pair.key)
    higher = {method.name for method in task.methods if method.metric == "dice"}
    lowest = {method.name for method in task.methods if method.metric in ("dice", "hd95")}
    aggregates = {}
    for method in task.methods:
        means = np.array([case[method.name]["mean"] for case in cases.values()])
        with np.errstate(invalid="ignore"):
            quantile = np.quantile(means, 0.3 if method.name in lowest else 0.7)
            aggregates[method.name] = {"mean": float(means.mean()), "std": float(means.std()), "30": float(quantile)}
    together = {key: cases[key] | extra[key] for key in cases}
    names = [name for name in next(iter(together.values())) if name != "num_foldings"]
    ours = {name: _aggregate([case[name]["mean"] for case in together.values()], name in higher) for name in names}
    result = {"name": task.name, "aggregates": aggregates, "cases": cases, "eval_version": EVAL_VERSION}
    return result | {"regkit": {"aggregates": ours, "cases": extra}}, warnings


def _measure(task: Task, pair: Pair, field: np.ndarray, data: Path, warnings: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """One case: (theirs, ours)."""
    from regkit.metrics import hd95
    from regkit.metrics.learn2reg import dice_learn2reg, hd95_learn2reg, jacobian_learn2reg, tre_learn2reg, warp_learn2reg

    theirs, ours = {}, {}
    mask = _mask(task, pair, data, warnings) if task.masked and task.uses("sdlogj") else None
    if task.uses("dice", "hd95"):
        paths = [data / scan.replace("images", "labels") for scan in (pair.fixed, pair.moving)]
        fixed, moving = (read_labels(path, task.shape) for path in paths)
        moved = warp_learn2reg(moving, field)
    for method in task.methods:
        if method.metric == "sdlogj":
            jacobian = jacobian_learn2reg(field, mask)
            theirs[method.name] = _entry(jacobian["sdlogj_learn2reg"])
            theirs["num_foldings"] = _entry(0.0)  # log's argument is at least 1e-9, and they count those at most 0
            ours |= {name: _entry(jacobian[name]) for name in ("sdlogj", "folds")}
        elif method.metric == "dice":
            theirs[method.name] = _entries(dice_learn2reg(fixed, moving, moved, method.labels))
        elif method.metric == "hd95":
            theirs[method.name] = _entries(hd95_learn2reg(fixed, moving, moved, method.labels))
            found = hd95(fixed, moved, spacing=read_spacing(paths[0]), labels=method.labels)
            ours[f"{method.name}_mm"] = _entries([found[label] for label in method.labels])
        else:
            points = [read_landmarks(data / name) for name in pair.points(method)]
            spacing = read_spacing(data / pair.moving)
            theirs[method.name] = _entries(tre_learn2reg(*points, field, spacing).tolist())
            ours[f"{method.name}_linear"] = _entries(tre_learn2reg(*points, field, spacing, order=1).tolist())
    return theirs, ours


def _entry(value: float) -> dict[str, Any]:
    return {"mean": float(value), "detailed": float(value)}


def _entries(values: list[float]) -> dict[str, Any]:
    known = [value for value in values if not np.isnan(value)]
    return {"mean": float(np.mean(known)) if known else float("nan"), "detailed": [float(value) for value in values]}


def _aggregate(values: list[float], higher: bool) -> dict[str, float]:
    known = np.array([value for value in values if not np.isnan(value)])
    if not len(known):
        return {"n": 0} | dict.fromkeys(("mean", "std", "worst30"), float("nan"))
    with np.errstate(invalid="ignore"):
        worst = float(np.quantile(known, 0.3 if higher else 0.7))
        return {"n": len(known), "mean": float(known.mean()), "std": float(known.std()), "worst30": worst}


def _mask(task: Task, pair: Pair, data: Path, warnings: list[str]) -> np.ndarray | None:
    """The fixed scan's mask; without one the evaluation takes all voxels, and says so."""
    path = data / pair.fixed.replace("images", "masks")
    if not path.is_file():
        warnings.append(f"{path} is missing; {pair.key} is measured without a mask")
        return None
    return read_labels(path, task.shape)
