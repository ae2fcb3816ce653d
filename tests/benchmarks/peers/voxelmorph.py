"""VoxelMorph's losses in its formulas (its spatial transformer and integration are in grid_sample.py)."""

import torch
import torch.nn.functional as F


def ncc(a: torch.Tensor, b: torch.Tensor, window: int, eps: float) -> torch.Tensor:
    """Mean squared local NCC of one channel: five dense convolutions with a cube of ones; eps is added to the product of the variances."""
    dims = a.dim() - 2
    convolve = F.conv3d if dims == 3 else F.conv2d
    ones = torch.ones(1, 1, *[window] * dims, dtype=a.dtype, device=a.device)
    sum_a, sum_b, sum_aa, sum_bb, sum_ab = (convolve(x, ones, padding=window // 2) for x in (a, b, a * a, b * b, a * b))
    n = window**dims
    mean_a, mean_b = sum_a / n, sum_b / n
    cross = sum_ab - mean_b * sum_a - mean_a * sum_b + mean_a * mean_b * n
    variance_a = sum_aa - 2 * mean_a * sum_a + mean_a * mean_a * n
    variance_b = sum_bb - 2 * mean_b * sum_b + mean_b * mean_b * n
    return (cross * cross / (variance_a * variance_b + eps)).mean()


def gradient_energy(u: torch.Tensor) -> torch.Tensor:
    """Mean over axes of the mean squared forward difference: each axis in turn is moved to the front and back."""
    terms = []
    for axis in range(2, u.dim()):
        first = u.movedim(axis, 0)
        difference = (first[1:] - first[:-1]).movedim(0, axis)
        terms.append((difference * difference).flatten(1).mean(1))
    return (sum(terms) / len(terms)).mean()
