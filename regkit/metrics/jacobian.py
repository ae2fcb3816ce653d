"""How a displacement changes volume: its Jacobian determinant, and what the field reports of it."""

import numpy as np
import torch

from regkit import ops
from regkit.metrics.masks import mask_array

_SMALLEST = 1e-9


def jacobian_summary(displacement: torch.Tensor, mask: object = None) -> dict[str, float]:
    """Statistics of the Jacobian determinant J = det(I + grad u) of x + u(x), by central differences (one-sided at the border).

    Args:
        displacement: (1, D, *spatial) in voxels, 2-D or 3-D.
        mask: Image, array or tensor of `spatial`; only voxels where it is not 0 count. By default all.

    Returns:
        - "folds": share of voxels with J <= 0;
        - "det_min", "det_max";
        - "sdlogj": standard deviation of log J over the voxels with J > 0, J clipped at 1e-9 below (Leow et al. 2007). Folds don't enter:
          read it with "folds";
        - "sdlogj_learn2reg": SDlogJ as Learn2Reg's evaluation computes it: std of log(clip(J + 3, 1e-9, 1e9)), without the two outermost
          voxels on each side (Hering et al. 2023). The + 3 hides folds and makes values several times smaller: compare it with Learn2Reg's
          only.

        Standard deviations are over the population. What no voxel is left for is NaN.
    """
    spatial = tuple(displacement.shape[2:])
    determinant = ops.jacobian_determinant(displacement.detach())[0, 0].cpu().numpy()
    chosen = mask_array(mask, spatial)
    inner = (slice(2, -2),) * len(spatial)
    values = determinant.ravel() if chosen is None else determinant[chosen]
    shifted = determinant[inner].ravel() if chosen is None else determinant[inner][chosen[inner]]
    positive = values[values > 0]
    return {
        "folds": float((values <= 0).mean()) if values.size else float("nan"),
        "det_min": float(values.min()) if values.size else float("nan"),
        "det_max": float(values.max()) if values.size else float("nan"),
        "sdlogj": _deviation(np.log(positive.clip(min=_SMALLEST))),
        "sdlogj_learn2reg": _deviation(np.log((shifted + 3).clip(_SMALLEST, 1e9))),
    }


def _deviation(values: np.ndarray) -> float:
    return float(values.std(dtype=np.float64)) if values.size else float("nan")
