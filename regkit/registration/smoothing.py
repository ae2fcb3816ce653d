"""Smoothing of fields by binomial filters, close to a B-spline: what keeps single voxels from running off."""

import torch

from regkit import ops


def smoothed(field: torch.Tensor, passes: int) -> torch.Tensor:
    """The field (1, D, *spatial) after so many filters, which together are about a Gaussian of sqrt(passes / 2) voxels."""
    for _ in range(passes):
        field = ops.smooth(field)
    return field
