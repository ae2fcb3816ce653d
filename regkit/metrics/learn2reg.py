"""Learn2Reg's measures of one displacement, as its evaluation computes them, quirks included; what is off in them is said at each.

Displacements are (X, Y, Z, 3) in voxels, component d along axis d, and pull: moved(x) = moving(x + u(x)). Spacing counts in landmark errors
only. Source: Hering et al. 2023, github.com/MDL-UzL/L2R, evaluation version 2.0.
"""

from collections.abc import Sequence

import numpy as np
import torch

from regkit import ops
from regkit.errors import InputError
from regkit.metrics.area_hausdorff import area_hd95
from regkit.metrics.overlap import dice


def warp_learn2reg(moving: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Labels at the nearest voxel, floor(x + 1/2), and 0 wherever x leaves the centres of the outermost voxels."""
    from scipy.ndimage import map_coordinates

    place = np.moveaxis(displacement, -1, 0).astype(np.float64)
    for axis, size in enumerate(displacement.shape[:-1]):
        place[axis] += np.arange(size).reshape([-1 if other == axis else 1 for other in range(displacement.ndim - 1)])
    return map_coordinates(moving, place, order=0)


def dice_learn2reg(fixed: np.ndarray, moving: np.ndarray, moved: np.ndarray, labels: Sequence[int]) -> list[float]:
    """Dice of each label; NaN where it is missing in the fixed or the unwarped moving map, 0 where warping alone lost it."""
    known = _in_both(fixed, moving, labels)
    found = dice(fixed, moved, sorted(known))
    return [found[label] if label in known else float("nan") for label in labels]


def hd95_learn2reg(fixed: np.ndarray, moving: np.ndarray, moved: np.ndarray, labels: Sequence[int]) -> list[float]:
    """Area-weighted 95 % Hausdorff distance of each label in voxels, see `area_hd95`; NaN as for Dice, infinity where warping lost it."""
    known = _in_both(fixed, moving, labels)
    return [area_hd95(fixed == label, moved == label) if label in known else float("nan") for label in labels]


def _in_both(fixed: np.ndarray, moving: np.ndarray, labels: Sequence[int]) -> set[int]:
    return set(labels) & set(np.unique(fixed).tolist()) & set(np.unique(moving).tolist())


def jacobian_learn2reg(displacement: np.ndarray, mask: np.ndarray | None = None) -> dict[str, float]:
    """SDlogJ as Learn2Reg has it, and what it hides.

    mask: voxels that are 1 count (others, 2 too, do not: so does theirs). Inside it:

    - "sdlogj_learn2reg": standard deviation of log(clip(J + 3, 1e-9, 1e9)), J by central differences, without the two outermost voxels on
      each side. A voxel must turn over to J = -3 before this notices the fold;
    - "sdlogj": standard deviation of log J over the voxels with J > 0, all but those of folds;
    - "folds": share of voxels with J <= 0.
    """
    u = torch.from_numpy(np.ascontiguousarray(np.moveaxis(displacement, -1, 0), dtype=np.float64))[None]
    chosen = None if mask is None else torch.from_numpy(mask == 1)[None, None]
    found = ops.jacobian_summary(u, mask=chosen)
    return {name: float(getattr(found, name)) for name in ("sdlogj_learn2reg", "sdlogj", "folds")}


def tre_learn2reg(
    fixed: np.ndarray, moving: np.ndarray, displacement: np.ndarray, spacing: Sequence[float], *, order: int = 3
) -> np.ndarray:
    """Error of each landmark (N,) in mm: ||(p + u(p) - q) spacing||, p and q the (N, 3) voxel indices of fixed and moving landmarks.

    order: 3, theirs: u by cubic splines, which overshoot at steps, and 0 for a landmark beyond the outermost voxels' centres. 1: linear, as
    the field is used everywhere else, with the nearest voxel's value beyond.
    spacing: of the moving scan, mm.
    """
    from scipy.ndimage import map_coordinates

    if fixed.shape != moving.shape or fixed.ndim != 2 or fixed.shape[1] != 3:
        raise InputError(f"landmarks came as {fixed.shape} and {moving.shape}; give two lists (N, 3) of the same landmarks, same order")
    mode = "constant" if order == 3 else "nearest"
    u = np.stack([map_coordinates(displacement[..., axis], fixed.T, order=order, mode=mode) for axis in range(3)], axis=1)
    return np.linalg.norm((fixed + u - moving) * np.asarray(spacing), axis=1)
