"""Disagreement of outlines."""

import torch
import torch.nn.functional as F

from regkit.losses.wide import wide
from regkit.ops import check

NORMS = ("mean-square", "l2")


def contour_loss(first: torch.Tensor, second: torch.Tensor, *, norm: str = "mean-square") -> torch.Tensor:
    """How far the edges of two label maps are apart, as their Laplacians have them.

        mean-square: mean |L first - L second|^2     over voxels, channels and the batch: a number of the size of a cross-entropy
        l2:          mean_b ||L first_b - L second_b||    the Euclidean norm over an image's voxels and channels: grows with its contours

    L x = sum of the 4 (in 3-D, 6) neighbours minus as many times x, the edge's values repeated outside.
    first, second: (B, K, *spatial), probabilities or one-hot maps of K labels. The gradient of l2 is 0 where the maps are equal. Halves are
    computed in float32. Raises ValueError where the shapes differ and for another norm, TypeError for integers.

    Source: He et al. 2022 (Applied Intelligence), Eq. 2, on binary masks: those have no gradient, so that a network's probabilities stand
    for them. The paper says L2 norm, and not over what.
    """
    for name, x in (("first", first), ("second", second)):
        check.image(x, name)
        check.floating(x, name)
    check.same("shape", first=tuple(first.shape), second=tuple(second.shape))
    check.choice(norm, "norm", NORMS)
    difference = laplacian(wide(first) - wide(second))
    if norm == "l2":
        return torch.linalg.vector_norm(difference.flatten(1), dim=1).mean()
    return difference.square().mean()


def laplacian(x: torch.Tensor) -> torch.Tensor:
    """Of images (B, C, *spatial), the edge's values repeated outside: no difference there."""
    total = torch.zeros_like(x)
    for axis in range(2, x.dim()):
        ends = [0, 0] * (x.dim() - 1 - axis) + [1, 1]  # F.pad counts from the last axis
        total = total + F.pad(x.diff(dim=axis), ends).diff(dim=axis)
    return total
