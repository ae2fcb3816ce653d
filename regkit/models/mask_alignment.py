"""Two images brought together by their masks alone: what a network then has to find is small.

A scaling and a shift along every axis follow from the masks' means and standard deviations, without any optimisation.
"""

from dataclasses import dataclass

import torch

LEAST = 1e-3  # of a mask's spread, in voxels


@dataclass(frozen=True)
class MaskAlignment:
    """x -> scale (x - fixed) + moving, from voxels of the fixed image to those of the moving one; all (B, D)."""

    fixed: torch.Tensor
    moving: torch.Tensor
    scale: torch.Tensor

    def then(self, displacement: torch.Tensor, shrink: float = 1.0) -> torch.Tensor:
        """The whole displacement (B, D, *spatial): first `displacement`, then the alignment.

        shrink: how many times larger the voxels are in which the alignment counts than those of the displacement, edges on edges.
        """
        axes = [1] * (displacement.dim() - 2)
        fixed, moving, scale = (x.reshape(*x.shape, *axes) for x in (self.fixed, self.moving, self.scale))
        fixed, moving = ((x + 0.5) * shrink - 0.5 for x in (fixed, moving))
        places = [torch.arange(n, dtype=displacement.dtype, device=displacement.device) for n in displacement.shape[2:]]
        x = torch.stack(torch.meshgrid(*places, indexing="ij"))
        return scale * (x + displacement - fixed) + moving - x


def align_masks(fixed: torch.Tensor, moving: torch.Tensor) -> MaskAlignment:
    """The alignment that gives the moving mask the mean and the standard deviation of the fixed one along every axis.

    fixed, moving: (B, 1, *spatial), weights of at least 0. Pairs of which a mask is empty are left as they are.
    """
    (first, first_spread, some), (second, second_spread, others) = _moments(fixed), _moments(moving)
    known = some & others
    return MaskAlignment(torch.where(known, first, 0), torch.where(known, second, 0), torch.where(known, second_spread / first_spread, 1))


def _moments(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean (B, D) and standard deviation (B, D) of a mask (B, 1, *spatial) along its axes, and whether there is any of it (B, 1)."""
    weights, means, spreads = mask[:, 0].float(), [], []
    total = weights.flatten(1).sum(1)
    for axis in range(1, weights.dim()):
        profile = weights.sum([a for a in range(1, weights.dim()) if a != axis])
        place = torch.arange(profile.shape[1], dtype=profile.dtype, device=profile.device)
        mean = (profile * place).sum(1) / total
        means.append(mean)
        spreads.append(((profile * (place - mean[:, None]).square()).sum(1) / total).sqrt().clamp_min(LEAST))
    return torch.stack(means, 1), torch.stack(spreads, 1), (total > 0)[:, None]
