"""Do two displacements undo each other?"""

from collections.abc import Sequence

import torch

from regkit import ops
from regkit.metrics.masks import mask_array


def inverse_consistency(
    displacement: torch.Tensor, inverse: torch.Tensor, *, spacing: float | Sequence[float] = 1.0, mask: object = None
) -> dict[str, float]:
    """Inverse consistency error ||u(x) + v(x + u(x))|| (Christensen and Johnson 2001).

    That is how far from itself a fixed point ends up when it is taken to the moving space and back.

    Args:
        displacement: u (1, D, *fixed spatial) voxels, from the fixed grid into the moving grid.
        inverse: v (1, D, *moving spatial) voxels, from the moving grid back into the fixed grid.
        spacing: of the fixed grid in mm, one or one per axis.
        mask: Image, array or tensor on the fixed grid; only voxels where it is not 0 count.

    Returns:
        {"mean", "p95", "max"} in mm, and "outside", the share of the voxels that u takes out of the moving grid, where v is not known:
        these do not count in the others. NaN where no voxel is left.
    """
    spatial, moving = tuple(displacement.shape[2:]), tuple(inverse.shape[2:])
    error = displacement + ops.warp(inverse, displacement, padding="border")
    steps = torch.as_tensor(spacing, dtype=error.dtype, device=error.device).expand(len(spatial))
    length = sum((error[0, axis] * step) ** 2 for axis, step in enumerate(steps)).sqrt()
    inside = torch.ones(spatial, dtype=torch.bool, device=error.device)
    for axis, (size, limit) in enumerate(zip(spatial, moving)):
        place = torch.arange(size, device=error.device).view([-1 if a == axis else 1 for a in range(len(spatial))]) + displacement[0, axis]
        inside &= (place >= 0) & (place <= limit - 1)
    chosen = mask_array(mask, spatial)
    counted = torch.ones_like(inside) if chosen is None else torch.from_numpy(chosen).to(inside.device)
    kept = length[counted & inside].double()
    outside = 1 - kept.numel() / max(int(counted.sum()), 1)
    if kept.numel() == 0:
        return {"mean": float("nan"), "p95": float("nan"), "max": float("nan"), "outside": outside}
    # kthvalue, because torch.quantile refuses more than 16 million values
    p95 = kept.kthvalue(max(1, round(0.95 * kept.numel()))).values
    return {"mean": float(kept.mean()), "p95": float(p95), "max": float(kept.max()), "outside": outside}
