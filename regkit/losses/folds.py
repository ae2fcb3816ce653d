"""Folding of fields."""

import torch

from regkit import ops


def fold_loss(displacement: torch.Tensor) -> torch.Tensor:
    """`mean(max(0, -det(I + grad u)))`: how far the map turns space inside out; 0 where it does not fold.

    displacement: (B, D, *spatial), voxels. Derivatives are central differences, see `regkit.ops.jacobian_determinant`.
    Source: Mok & Chung 2020 (SYMNet; LapIRN's code, weight 0 by default), there by forward differences.
    """
    return torch.relu(-ops.jacobian_determinant(displacement)).mean()
