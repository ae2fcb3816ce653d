"""Made images for networks."""

import numpy as np
import torch

from regkit.data.random_field import smooth_random_field


def pair(size: tuple[int, ...], batch: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two smooth images (batch, 1, *size) in 0..1."""
    both = smooth_random_field(size, 2.0, np.random.default_rng(seed), channels=2 * batch).reshape(2, batch, 1, *size)
    low, high = both.min(), both.max()
    fixed, moving = (both - low) / (high - low)
    return fixed, moving
