"""A field refined on the masks of the pair at hand: what the network left of the way from one outline to the other.

The masks are the attention network's, so nothing is needed that the network does not see.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from regkit import ops
from regkit.registration.adam import Adam


@dataclass(frozen=True)
class MaskRefinement:
    """How the field is refined; 0 iterations: not at all."""

    iterations: int = 0
    step: float = 0.1
    """Of Adam, in voxels."""
    smoothness: float = 1.0
    """Weight of the diffusion energy of what is added to the field, beside 1 - soft Dice of the masks."""

    def __post_init__(self):
        if self.iterations < 0 or self.step <= 0 or self.smoothness < 0:
            raise ValueError(
                "iterations and smoothness must be at least 0 and step above 0, but came as "
                f"{self.iterations}, {self.smoothness} and {self.step}"
            )


def refine_on_masks(
    field: torch.Tensor,
    displaced: Callable[[torch.Tensor], torch.Tensor],
    fixed: torch.Tensor,
    moving: torch.Tensor,
    options: MaskRefinement,
) -> torch.Tensor:
    """field + w after `options.iterations` steps of Adam on

        sum over the batch of 1 - 2 <f, m'> / (<f, f> + <m', m'>) + smoothness |grad w|^2,   m' = m warped by displaced(field + w)

    field: (B, D, *spatial), where it begins. displaced: the displacement that a field stands for: of a velocity, its integral.
    fixed, moving: (B, 1, *spatial), probabilities of the structures. Works under torch.no_grad too.
    """
    start = field.detach().float()
    with torch.enable_grad():
        w = torch.zeros_like(start).requires_grad_()
        optimiser = Adam(w, lr=options.step)
        for _ in range(options.iterations):
            moved = ops.warp(moving.float(), displaced(start + w), padding="border")
            axes = tuple(range(1, moved.dim()))
            overlap = 2 * (fixed * moved).sum(axes) / (fixed.square().sum(axes) + moved.square().sum(axes) + 1e-6)
            loss = (1 - overlap).sum() + options.smoothness * len(w) * ops.diffusion_energy(w)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return start + w.detach()
