"""Disagreement of label maps."""

from collections.abc import Sequence

import torch

from regkit import ops


def dice_loss(
    fixed_labels: torch.Tensor,
    moving_labels: torch.Tensor,
    displacement: torch.Tensor,
    *,
    labels: int | Sequence[int],
    padding: str = "zeros",
) -> torch.Tensor:
    """`1 - mean_l Dice_l` of the linearly warped one-hot moving labels with the fixed ones; see `regkit.ops.soft_dice`.

    fixed_labels (B, 1, *spatial), moving_labels (B, 1, *any), integers; displacement (B, D, *spatial), voxels. labels: those that count;
    the mean is over the labels and the batch. A label that neither map has counts as 1.
    Source: Eq. 3 of Mok & Chung (L2R 2020) gives the Dice itself, to be minimised, by a slip of the sign.
    """
    return 1 - ops.soft_dice(fixed_labels, moving_labels, displacement, labels=labels, padding=padding).mean()
