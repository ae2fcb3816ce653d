"""diffusion_energy: how rough a field is."""

from collections.abc import Sequence

import torch

from regkit.ops import native
from regkit.ops.energy import connect, energy


def diffusion_energy(
    u: torch.Tensor,  # (B, C, *spatial)
    *,
    spacing: float | Sequence[float] | None = None,  # one value an axis
) -> torch.Tensor:  # scalar
    """Mean squared gradient of a field, of any number of channels: displacement, velocity, features.

        E = 1/D sum_d mean_{b, c, x} ((u(x + e_d) - u(x)) / spacing_d)^2

    with D axes; the mean for axis d runs over the batch, the channels and the voxels that have a neighbour at x + e_d. An axis of one voxel
    counts as 0.
    Equals VoxelMorph's Grad("l2") loss for spacing 1 (the default); spacing divides the differences, so it is in the unit that the axis is
    measured in.
    Differentiable once by u. The gradient is computed in the forward pass, if u requires one and gradients are enabled.
    The result is float32 (float64 for float64). Nothing to average (no voxels) gives NaN, as torch's mean.

    Source: Balakrishnan et al. 2019 (VoxelMorph). Raises ValueError for shapes and spacing, TypeError for dtypes.
    """
    return energy("diffusion_energy", u, spacing)


def _terms(u: torch.Tensor, spacing: Sequence[float]) -> tuple:
    # The differences of axis d number numel (n_d - 1) / n_d: one factor in front, and one weight an axis of about 1.
    weights = [n / ((n - 1) * s * s) if n > 1 else 0.0 for n, s in zip(u.shape[2:], spacing)]
    return u.numel() * len(spacing), native.sizes(weights, 0.0)


connect("diffusion_energy", "diffusion", _terms)
