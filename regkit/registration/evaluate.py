"""How good a registration is by what it was not given: label maps and landmarks of both scans."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from regkit.errors import InputError, UsageError

if TYPE_CHECKING:
    from regkit.geometry import Image, Points, Transform


def evaluate(
    transform: "Transform",
    fixed_labels: "Image | None" = None,
    moving_labels: "Image | None" = None,
    fixed_points: "Points | None" = None,
    moving_points: "Points | None" = None,
) -> dict[str, Any]:
    """Overlap and surface distances of labels, and landmark errors, of a transform (fixed points to moving points).

    Moving labels are carried onto the fixed label map's grid by nearest neighbour and compared there, for every label above 0 of the fixed
    map. Landmarks are compared in the moving space, ||T(fixed) - moving||.

    Returns a dict with, for what was given:
        "labels": {label: {"dice", "dice_before", "hd95_mm", "assd_mm"}}; "mean": the same, averaged over the labels that have a value
        "tre_mm": {"before", "after"}: {"n", "mean", "std", "median", "p25", "p75", "p95", "max"}

    Raises UsageError when one of a pair is missing, InputError when the pair does not fit together.
    """
    found: dict[str, Any] = {}
    if _both(fixed_labels, moving_labels, "labels"):
        found |= _compare_labels(transform, fixed_labels, moving_labels)
    if _both(fixed_points, moving_points, "points"):
        found["tre_mm"] = _compare_points(transform, fixed_points, moving_points)
    return found


def deformation(metrics: dict[str, Any]) -> dict[str, Any]:
    """What a Record's metrics (run.json's, too) say of the deformation itself: folds, SDlogJ, and SDlogJ as Learn2Reg shifts it; None if
    not measured."""
    jacobian = metrics.get("jacobian", {})
    return {key: jacobian.get(key) for key in ("folds", "sdlogj", "sdlogj_learn2reg")}


def _both(fixed: Any, moving: Any, kind: str) -> bool:
    if (fixed is None) != (moving is None):
        given, wanted = ("fixed", "moving") if moving is None else ("moving", "fixed")
        raise UsageError(f"{given} {kind} came without {wanted} {kind}; give both to compare them")
    return fixed is not None


def _compare_labels(transform: "Transform", fixed: "Image", moving: "Image") -> dict[str, Any]:
    from regkit.geometry import resample
    from regkit.metrics import dice, surface_distances

    moved = resample(moving, fixed.grid, transform, labels=True)
    after = dice(fixed, moved)
    if not after:
        raise InputError(f"{fixed.name}: holds no label above 0; give a label map")
    before = dice(fixed, resample(moving, fixed.grid, labels=True), list(after))
    distances = surface_distances(fixed, moved, labels=list(after))
    labels = {
        label: {"dice": value, "dice_before": before[label], "hd95_mm": distances[label]["hd95"], "assd_mm": distances[label]["assd"]}
        for label, value in after.items()
    }
    measures = next(iter(labels.values()))
    return {"labels": labels, "mean": {measure: _mean(values[measure] for values in labels.values()) for measure in measures}}


def _mean(values: Iterable[float]) -> float:
    """Mean of the finite values: a label that is missing in one scan has no surface distance. NaN when there are none."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _compare_points(transform: "Transform", fixed: "Points", moving: "Points") -> dict[str, dict[str, float]]:
    from regkit.metrics import tre, tre_summary

    return {"before": tre_summary(tre(fixed, moving)), "after": tre_summary(tre(transform.apply(fixed.coordinates), moving))}
