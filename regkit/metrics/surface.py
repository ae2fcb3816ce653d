"""Distances between the surfaces of labels, in mm.

MONAI finds the surfaces and the distances; here each label is cut out to its box first, so that a hundred labels take seconds. A surface
voxel is a voxel of the label with a face neighbour outside it. Distances go from each surface voxel to the nearest one of the other map.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from regkit.metrics.labels import codes, label_pair, label_spacing, wanted_labels


def surface_distances(
    fixed: Any, moved: Any, *, spacing: float | Sequence[float] | None = None, labels: Sequence[int] | None = None
) -> dict[int, dict[str, float]]:
    """All surface distances of each label, for the price of one.

    With d(A, B) the distances from the surface voxels of A to the surface of B, in mm:

    - "hd": max(max d(A, B), max d(B, A)), the Hausdorff distance;
    - "hd95": max(p95 d(A, B), p95 d(B, A)), the robust Hausdorff distance as MONAI defines it. DeepMind's surface-distance, and so
      Learn2Reg, weighs surface voxels by their area;
    - "assd": mean over d(A, B) and d(B, A) together (Heimann et al. 2009; MONAI's symmetric average surface distance);
    - "assd_medpy": (mean d(A, B) + mean d(B, A)) / 2, MedPy's definition, which He et al. 2022 report.

    Args:
        fixed, moved: label maps on one grid: Image, array or tensor of integers.
        spacing: mm, one or one per axis; by default that of `fixed` when it is an Image, else 1.
        labels: which labels; by default all above 0 in `fixed`.

    Returns:
        {label: {name: mm}}; NaN where the label is missing in either map, as there is no surface to measure to.
    """
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    a, b = label_pair(fixed, moved)
    steps = label_spacing(fixed, spacing, a.ndim)
    wanted = wanted_labels(a, labels)
    boxes = [_boxes(array, wanted) for array in (a, b)]
    found = {}
    for label in wanted:
        pair = [box.get(label) for box in boxes]
        if pair[0] is None or pair[1] is None:
            found[label] = dict.fromkeys(("hd", "hd95", "assd", "assd_medpy"), float("nan"))
            continue
        box = tuple(slice(min(s.start, t.start), max(s.stop, t.stop)) for s, t in zip(*pair))
        edges_a, edges_b = get_mask_edges(a[box] == label, b[box] == label)
        forth = get_surface_distance(edges_b, edges_a, spacing=steps).astype(np.float64)
        back = get_surface_distance(edges_a, edges_b, spacing=steps).astype(np.float64)
        found[label] = {
            "hd": float(max(forth.max(), back.max())),
            "hd95": float(max(np.percentile(forth, 95), np.percentile(back, 95))),
            "assd": float(np.concatenate([forth, back]).mean()),
            "assd_medpy": float((forth.mean() + back.mean()) / 2),
        }
    return found


def hd95(
    fixed: Any, moved: Any, *, spacing: float | Sequence[float] | None = None, labels: Sequence[int] | None = None
) -> dict[int, float]:
    """Robust (95 %) Hausdorff distance of each label in mm; see `surface_distances`, which gives it and the others at once."""
    return {label: distances["hd95"] for label, distances in surface_distances(fixed, moved, spacing=spacing, labels=labels).items()}


def assd(
    fixed: Any, moved: Any, *, spacing: float | Sequence[float] | None = None, labels: Sequence[int] | None = None
) -> dict[int, float]:
    """Average symmetric surface distance of each label in mm; see `surface_distances`, which gives it and the others at once."""
    return {label: distances["assd"] for label, distances in surface_distances(fixed, moved, spacing=spacing, labels=labels).items()}


def _boxes(array: np.ndarray, wanted: list[int]) -> dict[int, tuple[slice, ...]]:
    """The bounding box of each wanted label that is present, in one pass."""
    from scipy.ndimage import find_objects

    values = np.unique(np.asarray(wanted, dtype=np.int64))
    if len(values) == 0:
        return {}
    # find_objects takes labels from 1 on, 0 being what nobody asked for
    numbered = ((codes(array, values) + 1) % (len(values) + 1)).astype(np.int32)
    return {int(value): box for value, box in zip(values, find_objects(numbered, max_label=len(values))) if box is not None}
