"""Dissimilarity of whole images, of one mean and one contrast everywhere."""

import torch

from regkit.losses.wide import wide
from regkit.ops import check


def global_ncc_loss(fixed: torch.Tensor, warped: torch.Tensor, *, eps: float = 1e-5) -> torch.Tensor:
    """`-NCC`, of each image and channel over all its voxels, then their mean: -1 where one is a rising linear function of the other, 0
    where they are unrelated, 1 where one is the other's negative.

        NCC(f, w) = cov(f, w) / sqrt((var f + eps) (var w + eps))

    fixed, warped: (B, C, *spatial). eps: added to the variances, so that it counts alike for images of every size, and so that a flat
    image, such as one that a mask leaves nothing of, has NCC 0 and a finite gradient. Halves are computed in float32.
    Raises ValueError where the shapes differ, TypeError for integers.
    Source: He et al. 2022 (Applied Intelligence), Eq. 8, there without eps.
    """
    check_images(fixed, warped)
    axes = tuple(range(2, fixed.dim()))
    f, w = (x - x.mean(axes, keepdim=True) for x in (wide(fixed), wide(warped)))
    spread = ((f * f).mean(axes) + eps) * ((w * w).mean(axes) + eps)
    return -((f * w).mean(axes) / spread.sqrt()).mean()


def check_images(fixed: torch.Tensor, warped: torch.Tensor) -> None:
    """Raises unless both are floating point images (B, C, *spatial) of one shape."""
    for name, x in (("fixed", fixed), ("warped", warped)):
        check.image(x, name)
        check.floating(x, name)
    check.same("shape", fixed=tuple(fixed.shape), warped=tuple(warped.shape))
