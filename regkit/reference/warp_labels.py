"""Majority vote of linear weights in plain torch. Formula and ties: csrc/core/majority.h."""

from itertools import product

import torch

from regkit.reference.warp import BORDER, ZEROS, gather, positions

STEPS = 1 << 20  # the weights of an axis are whole numbers that sum to this


def signed(labels: torch.Tensor) -> torch.Tensor:
    """Labels as int64 in the same order; torch can't compare or gather unsigned integers of more than 8 bits."""
    if labels.dtype == torch.uint64:
        return labels.view(torch.int64) ^ torch.iinfo(torch.int64).min
    return labels.to(torch.int64)


def unsigned_back(labels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.uint64:
        return (labels ^ torch.iinfo(torch.int64).min).view(torch.uint64)
    return labels.to(dtype)


def axis_votes(c: torch.Tensor, n: int, padding: int):
    """Per corner (low, high): a valid index, its whole-number weight, and whether it is a voxel of the image (else it counts as fill)."""
    x = (c.clamp(-2, n + 1) if padding == ZEROS else c.clamp(0, n - 1)).nan_to_num(0.0)
    low = x.floor()
    upper = ((x - low) * STEPS + 0.5).floor().long()
    votes = []
    for cell, weight in ((low, STEPS - upper), (low + 1, upper)):
        if padding == ZEROS:
            inside = (cell >= 0) & (cell < n) & ~c.isnan()
        elif padding == BORDER:
            inside = torch.ones_like(cell, dtype=torch.bool)
        else:
            inside = (c >= -0.5) & (c <= n - 0.5)
        votes.append((cell.clamp(0, n - 1).long(), weight, inside))
    return votes


def warp_labels(labels: torch.Tensor, displacement: torch.Tensor, padding: int, fill: int) -> torch.Tensor:
    moving = signed(labels)
    outside = signed(torch.tensor(fill).to(labels.dtype)).to(labels.device)
    candidates, weights = [], []
    axes = [axis_votes(c, n, padding) for c, n in zip(positions(displacement.float()), labels.shape[2:])]
    for corner in product(*axes):
        index, weight, inside = zip(*corner)
        candidates.append(torch.where(torch.stack(inside).all(0)[:, None], gather(moving, list(index)), outside))
        weights.append(torch.stack(weight).prod(0)[:, None])
    best, most = candidates[0], torch.full_like(candidates[0], -1)
    for candidate in candidates:
        score = sum(torch.where(other == candidate, weight, 0) for other, weight in zip(candidates, weights))
        better = (score > most) | ((score == most) & (candidate < best))
        best, most = torch.where(better, candidate, best), torch.where(better, score, most)
    return unsigned_back(best, labels.dtype)
