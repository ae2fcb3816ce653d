"""Label maps as the metrics see them: integer arrays of one shape, with the spacing that came along."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from regkit.errors import InputError


def label_pair(fixed: Any, moved: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both label maps as integer arrays.

    Images, numpy arrays and torch tensors pass, arrays also with leading singleton axes (1, 1, *spatial); bool counts as 0 and 1; floats
    must hold whole numbers.

    Raises:
        InputError: fractional values, or two shapes.
    """
    arrays = [_integers(labels, name) for labels, name in ((fixed, "fixed labels"), (moved, "moved labels"))]
    if arrays[0].shape != arrays[1].shape:
        raise InputError(f"fixed labels have shape {arrays[0].shape} and moved labels {arrays[1].shape}; resample both onto one grid")
    return arrays[0], arrays[1]


def label_spacing(fixed: Any, spacing: float | Sequence[float] | None, dims: int) -> tuple[float, ...]:
    """The spacing in mm: as given, else the fixed image's own, else 1."""
    if spacing is None:
        grid = getattr(fixed, "grid", None)
        spacing = 1.0 if grid is None else grid.spacing
    steps = np.atleast_1d(np.asarray(spacing, dtype=np.float64))
    if len(steps) not in (1, dims) or not (steps > 0).all():
        raise InputError(f"spacing is {spacing}; give positive mm, one number or one per axis ({dims})")
    return tuple(float(step) for step in np.broadcast_to(steps, (dims,)))


def wanted_labels(fixed: np.ndarray, labels: Sequence[int] | None) -> list[int]:
    """The labels asked for, else all above 0 in the fixed map."""
    if labels is not None:
        return [int(label) for label in labels]
    present = np.flatnonzero(np.bincount(fixed.ravel())) if _small(fixed) else np.unique(fixed)
    return [int(label) for label in present if label > 0]


def codes(array: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each voxel the place of its label in the sorted `values`, or len(values) when it is not among them."""
    if _small(array):
        table = np.full(int(array.max(initial=0)) + 1, len(values), dtype=np.intp)
        known = (values >= 0) & (values < len(table))
        table[values[known]] = np.flatnonzero(known)
        return table[array]
    place = np.searchsorted(values, array).clip(max=len(values) - 1)
    return np.where(values[place] == array, place, len(values))


def _small(array: np.ndarray) -> bool:
    """Whether labels are few and not negative, so that tables over them are cheap."""
    return array.size == 0 or (array.min() >= 0 and array.max() < 1 << 20)


def _integers(labels: Any, name: str) -> np.ndarray:
    array = getattr(labels, "data", labels) if hasattr(labels, "grid") else labels
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu().numpy()
    array = np.asarray(array)
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim > 3 or array.ndim < 2:
        raise InputError(f"{name} must be one label map with 2 or 3 axes, but came with shape {array.shape}; give one at a time")
    if array.dtype.kind == "b":
        return array.view(np.uint8)
    if array.dtype == np.uint64:  # bincount takes no uint64
        return array.astype(np.int64)
    if array.dtype.kind == "f":
        whole = array.astype(np.int64)
        if not (whole == array).all():
            raise InputError(f"{name} hold fractions; give integers (warp label maps with mode='nearest')")
        return whole
    return array
