"""What Learn2Reg's evaluation is told: its configuration, its pairs, and where their scans, label maps, landmarks and fields lie.

A scan's path, ./imagesTr/NAME_0001_0000.nii.gz, leads to everything else: "images" in it is replaced by "labels", "masks" or "keypoints".
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regkit.errors import InputError
from regkit.geometry.learn2reg import check_learn2reg, learn2reg_case, learn2reg_names
from regkit.geometry.nifti import load_nibabel, nifti_voxels, open_nibabel

METRICS = ("sdlogj", "dice", "hd95", "tre")
SUFFIXES = (".npz", ".nii.gz")  # in the order in which they are looked for


@dataclass(frozen=True)
class Method:
    """One entry of evaluation_methods."""

    name: str
    metric: str  # of METRICS
    labels: tuple[int, ...] = ()  # dice, hd95
    dest: str = ""  # tre: "keypoints", "landmarks"; replaces "images" in the scans' paths


@dataclass(frozen=True)
class Pair:
    """Two scans, as paths within the data directory."""

    fixed: str
    moving: str

    @property
    def key(self) -> str:
        """What results call the case."""
        fixed, moving = learn2reg_case(self.fixed), learn2reg_case(self.moving)
        return f"{'_'.join(fixed)}<--{'_'.join(moving)}"

    def points(self, method: Method) -> tuple[str, str]:
        """The landmark files. Between modalities that are not 0000 and 0001 in this order, the directory carries both, smaller first."""
        modalities = learn2reg_case(self.fixed)[1], learn2reg_case(self.moving)[1]
        same = modalities[0] == modalities[1] or modalities == ("0000", "0001")
        directory = method.dest + ("" if same else "".join(sorted(modalities)))
        return tuple(scan.replace("images", directory).replace(".nii.gz", ".csv") for scan in (self.fixed, self.moving))


@dataclass(frozen=True)
class Task:
    """An evaluation configuration."""

    name: str
    methods: tuple[Method, ...]
    shape: tuple[int, int, int]
    pairs: tuple[Pair, ...]
    masked: bool

    def uses(self, *metrics: str) -> bool:
        return any(method.metric in metrics for method in self.methods)


def read_task(config: str | os.PathLike[str], data: str | os.PathLike[str]) -> Task:
    """Read NAME_VAL_evaluation_config.json, or NAME_dataset.json.

    A dataset file names no measures. Its registration_val pairs are then measured by what `data` holds for the first of them: SDlogJ
    always, DSC and HD95 with label maps (all labels above 0 of the fixed ones), TRE_lm and TRE_kp with landmarks and keypoints; no masks.

    Raises InputError, naming the entry that is missing or not understood.
    """
    config = Path(config)
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{config} cannot be read ({error.strerror}); give Learn2Reg's evaluation_config.json or dataset.json") from error
    except ValueError as error:
        raise InputError(f"{config} is not JSON ({error}); give Learn2Reg's evaluation_config.json or dataset.json") from error
    try:
        if "evaluation_methods" in found:
            pairs = tuple(Pair(pair["fixed"], pair["moving"]) for pair in found["eval_pairs"])
            methods = tuple(_method(entry) for entry in found["evaluation_methods"])
            task = Task(found["task_name"], methods, tuple(found["expected_shape"]), pairs, bool(found.get("masked_evaluation", False)))
        else:
            pairs = tuple(Pair(pair["fixed"], pair["moving"]) for pair in found["registration_val"])
            task = Task(found["name"], (), (*found["tensorImageShape"]["0"], 3), pairs, False)
    except KeyError as error:
        raise InputError(f"{config}: has no entry {error}; give Learn2Reg's evaluation_config.json or dataset.json") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{config}: is not built as Learn2Reg's evaluation_config.json or dataset.json ({error})") from error
    if len(task.shape) != 4 or task.shape[3] != 3 or not all(isinstance(n, int) and n > 0 for n in task.shape):
        raise InputError(f"{config}: expected_shape is {list(task.shape)}; it must be [X, Y, Z, 3]")
    if not pairs:
        raise InputError(f"{config}: names no pairs to evaluate")
    task = Task(task.name, task.methods or _methods_of(pairs, Path(data)), task.shape[:3], pairs, task.masked)
    for what, names in (("evaluation method", [method.name for method in task.methods]), ("pair", [pair.key for pair in pairs])):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(f"{config}: the {what} {twice[0]} comes twice; every one needs a name of its own")
    return task


def _method(entry: dict[str, Any]) -> Method:
    name, metric = entry["name"], entry["metric"]
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} of {name} is none of {', '.join(METRICS)}")
    labels = tuple(int(label) for label in entry["labels"]) if metric in ("dice", "hd95") else ()
    return Method(name, metric, labels, entry["dest"] if metric == "tre" else "")


def _methods_of(pairs: tuple[Pair, ...], data: Path) -> tuple[Method, ...]:
    methods = [Method("LogJacDetStd", "sdlogj")]
    if (data / pairs[0].fixed.replace("images", "labels")).is_file():
        maps = {pair.fixed.replace("images", "labels") for pair in pairs}
        labels = tuple(sorted({int(label) for name in maps for label in np.unique(read_labels(data / name)) if label > 0}))
        methods += [Method("DSC", "dice", labels), Method("HD95", "hd95", labels)]
    for name, dest in (("TRE_lm", "landmarks"), ("TRE_kp", "keypoints")):
        method = Method(name, "tre", dest=dest)
        if all((data / points).is_file() for points in pairs[0].points(method)):
            methods.append(method)
    return tuple(methods)


def find_fields(task: Task, fields: str | os.PathLike[str]) -> tuple[dict[str, Path], list[str]]:
    """The field of every pair, by Pair.key, and warnings. Headers are looked at, so that a bad file is named before the work begins.

    The evaluation takes a name without modalities only where they are 0000 and 0001; here it passes wherever one pair alone can be meant,
    as it did in 2020, with a warning.

    Raises InputError for missing files (naming the first and how many), and as read_learn2reg does.
    """
    fields = Path(fields)
    if not fields.is_dir():
        raise InputError(f"{fields} is not a directory; give the one that holds the displacement fields")
    names = {pair.key: learn2reg_names(pair.fixed, pair.moving) for pair in task.pairs}
    shared = Counter(short for _, short in names.values())
    found, warnings, missing = {}, [], []
    for pair in task.pairs:
        long, short = names[pair.key]
        official = (learn2reg_case(pair.fixed)[1], learn2reg_case(pair.moving)[1]) == ("0000", "0001")
        candidates = [short, long] if official else [long, short] if shared[short] == 1 else [long]
        path = next((fields / (name + suffix) for name in candidates for suffix in SUFFIXES if (fields / (name + suffix)).is_file()), None)
        if path is None:
            missing.append(f"{short if official else long}.nii.gz")
            continue
        if not official and path.name.startswith(short + "."):
            warnings.append(f"{path}: Learn2Reg's evaluation takes this pair by the name {long} only")
        found[pair.key] = path
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        wanted = f"(X, Y, Z, 3) = {(*task.shape, 3)} float32, .nii.gz or .npz"
        raise InputError(f"{fields} lacks {missing[0]}{more} of {len(task.pairs)} fields; each is {wanted}")
    for path in found.values():
        check_learn2reg(path, task.shape)
    return found, warnings


def read_labels(path: Path, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A label map as integers. Raises InputError for a missing file, another shape, and fractions."""
    data = nifti_voxels(load_nibabel(existing(path), path.name), path.name)
    if shape is not None and data.shape != shape:
        raise InputError(f"{path}: has shape {data.shape}, but this task's scans have {shape}")
    if data.dtype.kind in "iu":
        return data
    whole = data.astype(np.int64)
    if not (whole == data).all():
        raise InputError(f"{path}: holds fractions; a label map holds whole numbers")
    return whole


def read_spacing(path: Path) -> tuple[float, ...]:
    """The voxel sizes in a NIfTI header, mm."""
    return tuple(float(step) for step in open_nibabel(existing(path), path.name).header.get_zooms()[:3])


def read_landmarks(path: Path) -> np.ndarray:
    """(N, 3) voxel indices: three numbers a line, commas between. Raises InputError."""
    try:
        points = np.loadtxt(existing(path), delimiter=",", ndmin=2)
    except ValueError as error:
        raise InputError(f"{path}: is no list of x,y,z voxel indices ({error})") from error
    if points.shape[1] != 3 or not np.isfinite(points).all():
        raise InputError(f"{path}: has shape {points.shape}; landmarks are lines of x,y,z voxel indices")
    return points


def existing(path: Path) -> Path:
    """The path, if there is such a file. Raises InputError."""
    if not path.is_file():
        raise InputError(f"no such file: {path}; --data names the directory in which the task's images, labels and landmarks lie")
    return path
