"""What a registration says of itself: local volume change, size of the displacement, consistency with its inverse, similarity before and
after.

Volume change is that of the whole transform on the fixed scan's grid, affine included, which is what the report draws, what Learn2Reg
evaluates, and what other tools find when they read xfm.h5.
"""

from typing import Any

import numpy as np
import torch

from regkit import ops
from regkit.geometry import Affine, Grid, Transform, total_displacement
from regkit.registration.prepare import Scan, on_grid

PROBES = 20_000  # points of the foreground that lengths and inverse consistency are measured at


def measure(
    fixed: Scan, moving: Scan, forward: Transform, backward: Transform, affine: Affine, u: torch.Tensor, grid: Grid, window: int
) -> dict[str, Any]:
    """The metrics of a Record.

    forward, backward: the transform (fixed to moving points) and its inverse; affine: its linear part; u (1, D, *grid.shape): the rest, in
    voxels of `grid`.
    window: of the local NCC by which the scans are compared on `grid`.

    Returns
        "jacobian": see regkit.metrics.jacobian_summary; of the whole transform, at all voxels of the fixed scan
        "displacement_mm": percentiles and maximum of |T(x) - x| over the fixed foreground
        "deformation_mm": mean and maximum of the displacement beyond the affine, over `grid`
        "inverse_consistency_mm": mean, p95 and maximum of |T^-1(T(x)) - x| over the fixed foreground
        "similarity_before", "similarity_affine", "similarity_after", "similarity_measure"
    """
    from regkit.metrics import jacobian_summary

    points = fixed.image.grid.to_world(probes(fixed.foreground()))
    there = forward.apply(points)
    length, error = np.linalg.norm(there - points, axis=1), np.linalg.norm(backward.apply(there) - points, axis=1)
    deformation = sum((u[0, axis] * step).square() for axis, step in enumerate(grid.spacing)).sqrt()
    # counted in fixed voxels on both sides, so that the voxels of the moving scan (their size and handedness) play no part
    whole = total_displacement(forward, fixed.image.grid, fixed.image.grid, device=u.device)
    still, aligned = on_grid(fixed, grid), on_grid(moving, grid, affine)
    pairs = {
        "before": on_grid(moving, grid, Affine.identity(grid.ndim)),
        "affine": aligned,
        "after": ops.warp(aligned, u, padding="border"),
    }
    return {
        "jacobian": jacobian_summary(whole),
        "displacement_mm": {f"p{q}": float(np.percentile(length, q)) for q in (5, 25, 50, 75, 95)} | {"max": float(length.max())},
        "deformation_mm": {"mean": float(deformation.mean()), "max": float(deformation.max())},
        "inverse_consistency_mm": {"mean": float(error.mean()), "p95": float(np.percentile(error, 95)), "max": float(error.max())},
        "similarity_measure": f"squared local NCC, window {window}",
        **{f"similarity_{when}": float(ops.lncc(still, image, window=window)) for when, image in pairs.items()},
    }


def probes(inside: np.ndarray) -> np.ndarray:
    """Indices of true voxels, evenly spread over their list."""
    flat = np.flatnonzero(inside)
    chosen = flat[:: max(1, len(flat) // PROBES)]
    return np.stack(np.unravel_index(chosen, inside.shape), 1).astype(np.float64)
