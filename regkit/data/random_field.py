"""Smooth random fields on a grid: white noise on a coarse lattice, spread by Gaussians.

The Gaussians are separable, so a field is a few small matrix products per axis, whatever its smoothness; filtering white noise on the full
grid with the same Gaussian would cost a hundred taps a voxel.
"""

from collections.abc import Sequence

import numpy as np
import torch


def smooth_random_field(shape: Sequence[int], sigma: float | Sequence[float], rng: np.random.Generator, channels: int = 1) -> torch.Tensor:
    """White noise convolved with a Gaussian, scaled to unit standard deviation.

    Args:
        shape: spatial shape, any number of axes.
        sigma: standard deviation of the Gaussian in voxels, one or one per axis.
        rng: source of the noise.
        channels: independent fields wanted.

    Returns:
        (channels, *shape) float32.
    """
    sigmas = np.broadcast_to(np.asarray(sigma, dtype=np.float64), (len(shape),))
    bases = [_gaussian_basis(size, width) for size, width in zip(shape, sigmas)]
    field = rng.standard_normal((channels, *(basis.shape[1] for basis in bases)))
    for axis, basis in enumerate(bases, start=1):
        field = np.moveaxis(np.tensordot(field.astype(np.float32), basis, axes=(axis, 1)), -1, axis)
    return torch.from_numpy(np.ascontiguousarray(field))


def smooth_random_displacement(shape: Sequence[int], amplitude: float, sigma: float, seed: int = 0) -> torch.Tensor:
    """A smooth random displacement to test registration with.

    Args:
        shape: spatial shape, (I, J) or (I, J, K).
        amplitude: length of the longest displacement vector, in voxels.
        sigma: smoothness in voxels: standard deviation of the Gaussian that white noise is convolved with. With amplitude = sigma / 2 the
            field is far from folding (determinants above 0.4), from about amplitude = sigma on it folds.
        seed: the same seed gives the same field.

    Returns:
        (1, D, *shape) float32 in voxels, component d along axis d.
    """
    field = smooth_random_field(shape, sigma, np.random.default_rng(seed), channels=len(shape))
    return (field * (amplitude / field.square().sum(0).max().sqrt()))[None]


def _gaussian_basis(size: int, sigma: float) -> np.ndarray:
    """(size, lattice) values of Gaussians one sigma apart; rows have unit norm, which makes unit noise a unit-variance field."""
    first = -3.0 * sigma
    lattice = first + sigma * np.arange(int(np.ceil((size - 1 - 2 * first) / sigma)) + 1)
    basis = np.exp(-0.5 * ((np.arange(size)[:, None] - lattice[None]) / sigma) ** 2)
    return (basis / np.linalg.norm(basis, axis=1, keepdims=True)).astype(np.float32)
