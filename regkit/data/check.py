"""Whether a manifest can be trained and validated on, and what is in it: every problem at once, before hours are spent on it."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from regkit.data.config import DataConfig
from regkit.data.inspect import Finding, inspect
from regkit.data.manifest import SPLITS, Case, Manifest, Pairs, scan_manifest
from regkit.data.pairs import frame_shape
from regkit.data.threads import each
from regkit.errors import InputError
from regkit.registration.progress import Progress, silent

CUT = 0.01  # of a scan's foreground outside the frame: worth saying
NAMED = 3  # cases that a line names before it counts the rest


@dataclass
class Report:
    """What `check` found."""

    manifest: Path
    findings: list[Finding]
    problems: list[str] = field(default_factory=list)
    """Why the manifest cannot be used, a line each."""
    notes: list[str] = field(default_factory=list)
    """What may be meant, and may not be."""
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By split: cases, groups, pairs, with (label, mask, landmarks), labels {value: {cases, voxels}}."""
    frame: dict[str, Any] = field(default_factory=dict)
    """shape, spacing_mm (smallest and largest), sample_mb, cut (mean, largest), cache_mb; empty where no scan can be read."""

    @property
    def usable(self) -> bool:
        return not self.problems


def check(
    path: str | os.PathLike[str],
    config: DataConfig,
    *,
    multiple: int = 1,
    splits: Sequence[str] = SPLITS,
    progress: Progress = silent,
    threads: int | None = None,
) -> Report:
    """Reads every file of a manifest's splits.

    Raises InputError where there is no table at all, UsageError where the configured frame does not fit; all else is in the report.
    """
    manifest, problems = scan_manifest(path)
    cases = [case for case in manifest.cases if case.split in splits]
    report = Report(Path(path), _inspect(cases, config, multiple, progress, threads), problems)
    for finding in report.findings:
        report.problems += finding.problems
        report.notes += finding.notes
    if not cases and not problems:
        report.problems.append(f"{path}: no scan is in the split {' or '.join(splits)}; mend the column split")
    for split in splits:
        members = [finding for finding in report.findings if finding.case.split == split]
        if members:
            report.splits[split] = _split(members, manifest, split, report)
    _labels(report)
    _duplicates(report)
    _landmarks(report)
    _frame(report, config, multiple)
    return report


def _inspect(cases: list[Case], config: DataConfig, multiple: int, progress: Progress, threads: int | None) -> list[Finding]:
    work = partial(inspect, options=config.input, multiple=multiple, label_scale=config.label_scale)
    return each(work, cases, progress, "read scans", threads)


def _split(members: list[Finding], manifest: Manifest, split: str, report: Report) -> dict[str, Any]:
    cases = [finding.case for finding in members]
    pairs = len(Pairs(cases))
    if pairs == 0 and split != "test":
        report.problems.append(
            f"{manifest.path}: of the {len(cases)} scans of the split {split} no two can be paired; a pair needs two scans of one "
            "group, one fixed and one moving (columns group and role)"
        )
    for what in ("label", "mask"):
        lacking = [case.name for case in cases if getattr(case, what) is None]
        if 0 < len(lacking) < len(cases) and (split == "train" or what == "label"):
            use = "training uses them only where all scans have one" if split == "train" else "only pairs with two are measured"
            report.notes.append(f"{split}: {len(lacking)} of {len(cases)} scans have no {what} ({_some(lacking)}); {use}")
    labels: dict[int, dict[str, int]] = defaultdict(lambda: {"cases": 0, "voxels": 0})
    for finding in members:
        for value, voxels in (finding.labels or {}).items():
            labels[value]["cases"] += 1
            labels[value]["voxels"] += voxels
    labelled = [finding for finding in members if finding.labels is not None]
    rare = {value: count["cases"] for value, count in sorted(labels.items()) if count["cases"] < len(labelled)}
    if rare:
        told = _some(f"{value} ({count})" for value, count in rare.items())
        report.notes.append(f"{split}: labels that not all {len(labelled)} label maps have, and how many do: {told}")
    return {
        "cases": len(cases),
        "groups": dict(Counter(case.group for case in cases)),
        "pairs": pairs,
        "with": {what: sum(getattr(case, what) is not None for case in cases) for what in ("label", "mask", "landmarks")},
        "labels": dict(sorted(labels.items())),
    }


def _labels(report: Report) -> None:
    """Labels that are validated on, but not trained on."""
    if "train" in report.splits and "validation" in report.splits:
        alone = set(report.splits["validation"]["labels"]) - set(report.splits["train"]["labels"])
        if alone and report.splits["train"]["labels"]:
            report.notes.append(f"labels {_some(sorted(alone))} are in validation scans, but in no training scan")


def _duplicates(report: Report) -> None:
    """The same voxels twice: a leak between splits, unless all are fixed scans that moving ones are registered to (an atlas)."""
    same = defaultdict(list)
    for finding in report.findings:
        if finding.digest:
            same[finding.digest].append(finding.case)
    for cases in same.values():
        if len(cases) < 2:
            continue
        names, splits = _some([case.name for case in cases]), [split for split in SPLITS if any(case.split == split for case in cases)]
        atlas = all(case.role == "fixed" for case in cases)
        if len(splits) > 1 and not atlas:
            report.problems.append(
                f"cases {names} hold the same voxels and are in {' and '.join(splits)}; what is trained on cannot validate or test"
            )
        elif not atlas:
            report.notes.append(f"cases {names} hold the same voxels")
    groups = defaultdict(set)
    for finding in report.findings:
        if finding.case.group and finding.case.role != "fixed":
            groups[finding.case.group].add(finding.case.split)
    shared = sorted(group for group, splits in groups.items() if len(splits) > 1)
    if shared:
        report.notes.append(f"scans of the groups {_some(shared)} are in more than one split; if a group is a patient, that is a leak")


def _landmarks(report: Report) -> None:
    """Landmarks are compared one by one, so scans that are paired need the same number of them."""
    counts = defaultdict(lambda: defaultdict(list))
    for finding in report.findings:
        if finding.points is not None:
            counts[finding.case.split, finding.case.group][finding.points].append(finding.case.name)
    for (split, group), found in counts.items():
        if len(found) > 1:
            told = "; ".join(f"{count} in {_some(names)}" for count, names in sorted(found.items()))
            where = f"{split}, group {group}" if group else split
            report.problems.append(f"{where}: scans that are paired have different numbers of landmarks ({told}); give all the same points")


def _frame(report: Report, config: DataConfig, multiple: int) -> None:
    known = [finding for finding in report.findings if finding.prepared is not None]
    if not known:
        return
    try:
        shape = frame_shape((finding.prepared.shape for finding in known), config.input, multiple)
    except InputError as error:
        report.problems.append(f"{report.manifest}: {error}")
        return
    spacings = np.array([finding.prepared.spacing for finding in known])
    cut = [finding.cut for finding in known]
    each = max(finding.stored / np.prod(finding.prepared.shape) for finding in known)  # bytes a voxel
    report.frame = {
        "shape": list(shape),
        "spacing_mm": [spacings.min(0).tolist(), spacings.max(0).tolist()],
        "sample_mb": 2 * each * float(np.prod(shape)) / 1e6,
        "cut": {"mean": float(np.mean(cut)), "largest": max(cut)},
        "cache_mb": sum(finding.stored for finding in known) / 1e6,
    }
    far = [finding.case.name for finding in known if finding.cut > CUT]
    if far:
        report.notes.append(
            f"the frame cuts off more than {100 * CUT:g} % of the foreground of {_some(far)} (up to {100 * max(cut):.1f} %); "
            'a larger input.shape, input.center = "foreground" or a larger input.spacing_mm takes in more'
        )
    ratio = spacings.max(0) / spacings.min(0)
    if config.input.spacing_mm is None and ratio.max() > 1.1:
        report.notes.append(
            f"voxel sizes differ by a factor of up to {ratio.max():.2g} between scans; input.spacing_mm gives the network one size for all"
        )


def _some(names: Iterable[Any]) -> str:
    """The first few, and how many more there are."""
    names = list(map(str, names))
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
