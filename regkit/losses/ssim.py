"""Dissimilarity of images in their local means, contrasts and structure."""

import torch

from regkit.losses.global_ncc import check_images
from regkit.losses.wide import wide
from regkit.ops import check


def ssim_loss(fixed: torch.Tensor, warped: torch.Tensor, *, window: int = 11, sigma: float = 1.5, reach: float = 1.0) -> torch.Tensor:
    """`-mean(SSIM)`: -1 where the images are equal.

        SSIM = (2 m_f m_w + C1) (2 s_fw + C2) / ((m_f^2 + m_w^2 + C1) (s_f^2 + s_w^2 + C2)),   C1 = (0.01 reach)^2, C2 = (0.03 reach)^2

    with the local means m, variances s^2 and covariance s_fw of `E[x y] - E[x] E[y]`, weighted by a Gaussian of `sigma` voxels that is cut
    to `window` voxels an axis and sums to 1; what lies outside the images counts as 0 in all of them. The mean is over all voxels.
    fixed, warped: (B, C, *spatial), 2-D or 3-D. reach: from the least to the largest possible grey value. Halves are computed in float32.
    Raises ValueError where the shapes differ and for an even window, TypeError for integers.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 2004. Zeros outside and the
    uniform mean as in https://github.com/aserdega/ssim-pytorch, which He et al. 2022 train with (their Eq. 9 and 10).
    """
    check_images(fixed, warped)
    check.odd_window(window)
    if sigma <= 0 or reach <= 0:
        raise ValueError(f"sigma and reach must be above 0, but came as {sigma} and {reach}")
    f, w = wide(fixed), wide(warped)
    with torch.autocast(f.device.type, enabled=False):  # variances are differences of nearly equal numbers
        mean_f, mean_w, ff, ww, fw = _blurred(torch.stack([f, w, f * f, w * w, f * w]), window, sigma)
    c1, c2 = (0.01 * reach) ** 2, (0.03 * reach) ** 2
    cross, squares = mean_f * mean_w, mean_f**2 + mean_w**2
    return -((2 * cross + c1) * (2 * (fw - cross) + c2) / ((squares + c1) * (ff + ww - squares + c2))).mean()


def _blurred(x: torch.Tensor, window: int, sigma: float) -> torch.Tensor:
    """(N, B, C, *spatial) under the Gaussian, zeros outside: one banded matrix an axis.

    A convolution of one channel takes torch 8 to 28 times as long on a CPU.
    """
    place = torch.arange(window, dtype=x.dtype, device=x.device) - window // 2
    weights = torch.exp(-(place**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    for axis in range(3, x.dim()):
        at = torch.arange(x.shape[axis], device=x.device)
        tap = at[:, None] - at + window // 2
        band = torch.where((tap >= 0) & (tap < window), weights[tap.clamp(0, window - 1)], 0)
        x = (x.movedim(axis, -1) @ band).movedim(-1, axis)
    return x
