"""Dissimilarity of images."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from regkit import ops


def lncc_loss(fixed: torch.Tensor, warped: torch.Tensor, *, window: int = 9, eps: float = 1e-5) -> torch.Tensor:
    """`-mean(ncc)` with the squared local NCC of `regkit.ops.lncc`: -1 where the images are locally
    linear to each other, 0 where unrelated.

    fixed, warped: (B, C, *spatial). Source: Balakrishnan et al. 2019 (VoxelMorph).
    """
    return -ops.lncc(warped, fixed, window=window, eps=eps)


def similarity_pyramid(fixed: torch.Tensor, warped: torch.Tensor, *, windows: Sequence[int] = (7, 5, 3), eps: float = 1e-5) -> torch.Tensor:
    """Local NCC on every level of a pyramid, the finest counting most.

        S = - sum_i 1 / 2^i  NCC_{w_i}(fixed / 2^i, warped / 2^i),   i = 0, 1, ...

    fixed, warped: (B, 1, *spatial). windows: w_i, from the finest level on, one a level. Images are halved by means over 3^D voxels at
    every second one, what lies outside taking no part.

    Source: Mok & Chung 2020 (LapIRN), Eq. 2; windows as in the authors' code: (7, 5, 3), (5, 3) and (3,) for levels 3, 2 and 1.
    """
    pool = F.avg_pool3d if fixed.dim() == 5 else F.avg_pool2d
    total = fixed.new_zeros(())
    for i, window in enumerate(windows):
        if i:
            wide = torch.promote_types(fixed.dtype, torch.float32)  # halves are not pooled on a CPU, and would be rounded elsewhere
            fixed, warped = (pool(image.to(wide), 3, 2, 1, count_include_pad=False) for image in (fixed, warped))
        total = total + lncc_loss(fixed, warped, window=window, eps=eps) / 2**i
    return total
