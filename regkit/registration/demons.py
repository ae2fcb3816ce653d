"""Diffeomorphic Demons: an update from the difference of the images and their slopes, applied as a small diffeomorphism, then smoothed.

With s the transformation so far, F and M the images (of several channels where they have them, such as maps of tissues) and v the update:

    v(x) = sum_c (F_c - M_c o s) J_c / (sum_c |J_c|^2 + (F_c - M_c o s)^2 / step^2),      J_c = (grad F_c + grad (M_c o s)) / 2
    s   <- smoothed(s o exp(smoothed v))

|v| is at most step / 2 voxels whatever the intensities, and 0 where images agree or are flat.

Source: Thirion 1998; Vercauteren, Pennec, Perchant & Ayache, Diffeomorphic demons: efficient non-parametric image registration,
NeuroImage 2009, with its efficient (symmetric) forces; several channels as Peyrat et al. 2008.
"""

import torch

from regkit import ops
from regkit.features.gradient import gradient
from regkit.registration.smoothing import smoothed

FEW = 1e-6  # squared slope and difference below which there is nothing to follow
SQUARINGS = 4  # of an update, which is of a voxel or so


def demons_update(
    fixed: torch.Tensor,  # (1, C, *spatial), intensities in 0..1
    moving: torch.Tensor,  # (1, C, *spatial)
    slope: torch.Tensor,  # (1, C, D, *spatial): gradient(fixed)
    u: torch.Tensor,  # (1, D, *spatial), the displacement so far in voxels
    weight: torch.Tensor | None = None,  # (1, 1, *spatial), from 0 to 1: how much the forces count
    *,
    step: float,
    smoothing: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # (1, D, *spatial); scalar
    """The displacement after one iteration, and the mean squared difference before it.

    step: twice the longest update in voxels. smoothing: binomial filters that go over the update once and over the displacement `smoothing`
    times, which is a Gaussian of sqrt(smoothing / 2) voxels.
    """
    moved = ops.warp(moving, u, padding="border")
    difference = fixed - moved if weight is None else (fixed - moved) * weight
    update = ops.smooth(force(difference, 0.5 * (slope + gradient(moved)), step))
    u = ops.compose(u, ops.integrate_velocity(update, steps=SQUARINGS))
    return smoothed(u, smoothing), difference.square().mean()


def force(difference: torch.Tensor, slopes: torch.Tensor, step: float) -> torch.Tensor:
    """(1, D, *spatial) of the differences (1, C, *spatial) and the slopes (1, C, D, *spatial) along the axes."""
    pull = (difference[:, :, None] * slopes).sum(1)
    scale = (slopes.square().sum(2) + difference.square() / step**2).sum(1, keepdim=True)
    return torch.where(scale > FEW, pull / scale.clamp_min(FEW), 0.0)
