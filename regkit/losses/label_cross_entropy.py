"""Disagreement of label maps, voxel by voxel."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from regkit import ops
from regkit.losses.one_hot import class_map, one_hot
from regkit.losses.wide import wide
from regkit.ops import check

LEAST = 1e-6  # probability that a logarithm is taken of


def label_cross_entropy(
    fixed_labels: torch.Tensor,
    moving_labels: torch.Tensor,
    displacement: torch.Tensor,
    *,
    labels: int | Sequence[int],
    floor: float = 0.0,
    ac_compat: bool = False,
    padding: str = "border",
) -> torch.Tensor:
    """`mean_x -log max((1 - floor) p_c(x) + floor, 1e-6)`, p being the linearly warped one-hot moving labels and c the fixed
    label of voxel x.

    fixed_labels (B, 1, *spatial), moving_labels (B, 1, *any), integers; displacement (B, D, *spatial), voxels. labels: those that count,
    above 0, a number n standing for 1 .. n; all others are background, a class of its own. padding: as of `regkit.ops.warp`; "zeros" leaves
    voxels from outside the moving map without any class.
    floor: 0 for the plain cross-entropy. Where no corner of p's cell has the right label that one is 13.8 (= -log 1e-6) and its gradient 0,
    and elsewhere the gradient grows as 1 / p: the few voxels on outlines that are just missed outweigh all others. With a floor both are
    bounded, by -log floor and 1 / floor.
    ac_compat: p as the logits of a softmax cross-entropy, as AC-RegNet's code has it: bounded, from log(1 + (K - 1) / e) for K classes
    where p is right to log(e + K - 1) where it is wrong, and no gradient by p above 1.
    Raises ValueError for shapes, labels and options, TypeError for dtypes.

    Source: Mansilla et al. 2020 (AC-RegNet); He et al. 2022 (L_ce).
    """
    if not 0 <= floor < 1:
        raise ValueError(f"floor must be at least 0 and below 1, but came as {floor}")
    truth = class_map(fixed_labels, labels)
    check.displacement(displacement)
    check.same("batch size", fixed_labels=fixed_labels.shape[0], displacement=displacement.shape[0])
    check.same("size", fixed_labels=tuple(fixed_labels.shape[2:]), displacement=tuple(displacement.shape[2:]))
    u = wide(displacement)
    p = ops.warp(one_hot(moving_labels, labels).to(u.dtype), u, padding=padding)
    if ac_compat:
        return F.cross_entropy(p, truth)
    return -(floor + (1 - floor) * p.gather(1, truth[:, None])).clamp_min(LEAST).log().mean()
