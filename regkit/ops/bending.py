"""bending_energy: how much a field bends; affine maps are free."""

from collections.abc import Sequence

import torch

from regkit.ops import native
from regkit.ops.energy import connect, energy


def bending_energy(
    u: torch.Tensor,  # (B, C, *spatial)
    *,
    spacing: float | Sequence[float] | None = None,  # one value an axis
) -> torch.Tensor:  # scalar
    """Mean squared second derivatives of a field, of any number of channels: displacement, velocity, features.

        E = sum_d mean (u_dd / spacing_d^2)^2 + 2 sum_{d<e} mean (u_de / (spacing_d spacing_e))^2
        u_dd(x) = u(x - e_d) - 2 u(x) + u(x + e_d)
        u_de(x) = u(x + e_d + e_e) - u(x + e_d) - u(x + e_e) + u(x)

    Each mean runs over the batch, the channels and the places where the difference exists: voxels with both neighbours, cells of four
    voxels. The border is free: an affine field, whatever its offset, has energy 0. An axis of fewer than three voxels counts as 0 for u_dd,
    one of a single voxel for u_de.
    spacing (1 by default) divides the differences, so it is in the unit that the axis is measured in.

    MONAI's BendingEnergyLoss sums the same terms, but takes u_de over three voxels an axis, (u(+,+) - u(+,-) - u(-,+) + u(-,-)) / 4, which
    does not see a checkerboard, leaves the border's voxels out of all terms, and has no spacing; on smooth fields the two approach each
    other. DeepReg and earlier MONAI difference central differences, over five voxels.
    Differentiable once by u. The gradient is computed in the forward pass, if u requires one and gradients are enabled.
    The result is float32 (float64 for float64). Nothing to average (no voxels) gives NaN, as torch's mean.

    Source: Rueckert et al. 1999. Raises ValueError for shapes and spacing, TypeError for dtypes.
    """
    return energy("bending_energy", u, spacing)


def _terms(u: torch.Tensor, spacing: Sequence[float]) -> tuple:
    # Differences number somewhat less than numel: one factor 1 / numel in front, and one weight a pair of axes of about 1.
    n, s = native.sizes(u.shape[2:]), native.sizes(spacing)
    pure = [n[d] / ((n[d] - 2) * s[d] ** 4) if n[d] > 2 else 0.0 for d in range(3)]
    once = [n[d] / ((n[d] - 1) * s[d] ** 2) if n[d] > 1 else 0.0 for d in range(3)]
    mixed = [2 * once[d] * once[e] for d, e in ((0, 1), (0, 2), (1, 2))]
    return u.numel(), pure, mixed


connect("bending_energy", "bending", _terms)
