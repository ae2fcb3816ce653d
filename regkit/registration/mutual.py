"""Normalised mutual information: how well grey values of one scan predict those of another, whatever the relation between them.

It aligns scans of different contrasts globally. MIND cannot: its offsets follow the array axes, so that scans in different orientations
have different features until an affine has brought them onto one grid. A few thousand voxels are enough for 12 parameters, and plain torch
for those.
"""

import torch


def normalised_mutual_information(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor, *, bins: int = 32) -> torch.Tensor:
    """(H(a) + H(b)) / H(a, b), from 1 (independent) to 2 (each determines the other); a scalar, with gradients to a and b.

    a, b, weight: one shape; intensities in 0..1 (clipped), weights not negative. The joint histogram is smoothed by a triangular Parzen
    window 1.5 bins wide on each side.

    Source: Studholme, Hill and Hawkes 1999; Parzen windows as Viola and Wells 1997.
    """
    joint = (_windows(a, bins) * weight.reshape(1, -1)) @ _windows(b, bins).T
    joint = joint / joint.sum().clamp_min(1e-20)
    return (_entropy(joint.sum(1)) + _entropy(joint.sum(0))) / _entropy(joint).clamp_min(1e-6)


def _windows(x: torch.Tensor, bins: int) -> torch.Tensor:
    """(bins, N) share of each value in each bin; shares need not sum to 1, the histogram is normalised as a whole."""
    place = x.reshape(1, -1).clamp(0, 1) * (bins - 1)
    centres = torch.arange(bins, dtype=x.dtype, device=x.device)[:, None]
    return (1 - (place - centres).abs() / 1.5).clamp_min(0)


def _entropy(p: torch.Tensor) -> torch.Tensor:
    return -(p * (p + 1e-10).log()).sum()
