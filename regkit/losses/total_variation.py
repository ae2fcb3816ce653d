"""Roughness of fields that may jump."""

import torch

from regkit.losses.wide import wide
from regkit.ops import check


def total_variation_loss(u: torch.Tensor) -> torch.Tensor:
    """`1/D sum_d mean |u(x + e_d) - u(x)|`: the mean absolute forward difference, over axes, voxels, components and the batch.

    u: (B, D, *spatial), a displacement in voxels. Unlike `smoothness_loss` it lets a field change in one place as cheaply as little by
    little. An axis of one voxel has no difference and counts as 0. Halves are computed in float32.
    Raises ValueError for other shapes, TypeError for integers.

    Source: Mansilla et al. 2020 (AC-RegNet) and He et al. 2022 (weight 3.5). AC-RegNet's code for TensorFlow takes the sum over an image of
    64x64 instead of the mean: its weight of 5e-5 is 0.81 here.
    """
    dims = check.displacement(u, "u")
    u = wide(u)
    return sum(u.diff(dim=axis).abs().mean() if u.shape[axis] > 1 else u.new_zeros(()) for axis in range(2, u.dim())) / dims
