"""Roughness of fields."""

import torch

from regkit import ops


def smoothness_loss(field: torch.Tensor, *, weight: float = 1.0, level: int = 0, by_level: bool = True) -> torch.Tensor:
    """`weight / 2^level` times the mean squared forward difference of a displacement or velocity (B, D, *spatial) in voxels.

    level: how many times the field's grid was halved, 0 for the finest. by_level=False: `weight` on all levels, as in LapIRN's code; with
    True as in Eq. 1 of Mok & Chung (L2R 2020).
    Source: Balakrishnan et al. 2019 for the energy, see `regkit.ops.diffusion_energy`.
    """
    return (weight / 2**level if by_level else weight) * ops.diffusion_energy(field)
