"""How a displacement changes volume: its Jacobian determinant, and what the field reports of it."""

import torch

from regkit import ops
from regkit.metrics.masks import mask_array

_FIGURES = ("folds", "det_min", "det_max", "sdlogj", "sdlogj_learn2reg")


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
    u = displacement.detach()
    chosen = mask_array(mask, tuple(u.shape[2:]))
    summary = ops.jacobian_summary(u, mask=None if chosen is None else torch.from_numpy(chosen).to(u.device)[None, None])
    return {name: float(getattr(summary, name)) for name in _FIGURES}
