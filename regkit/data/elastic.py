"""Random smooth deformations for training: new shapes, with labels that fit them, from the few people there are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from regkit.data.random_field import smooth_random_displacement


@dataclass(frozen=True)
class ElasticAugmentation:
    """A random displacement of a scan, in voxels of the network's frame.

    probability: of any. amplitude: the longest vector is uniform between 0 and this. sigma: smoothness, the standard deviation of the
        Gaussian that white noise is convolved with; with more than half of it as amplitude the field comes near to folding.
    """

    probability: float = 0.0
    amplitude: float = 2.0
    sigma: float = 5.0

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be from 0 to 1, but came as {self.probability}")
        if not 0 <= self.amplitude < math.inf or not 0 < self.sigma < math.inf:
            raise ValueError(f"amplitude must be 0 or more and sigma above 0, but came as {self.amplitude} and {self.sigma}")

    def draw(self, size: Sequence[int], generator: torch.Generator) -> torch.Tensor | None:
        """The displacement (1, D, *size), or None for none."""
        chance, strength = torch.rand(2, generator=generator).tolist()
        if chance >= self.probability:
            return None
        seed = int(torch.randint(1 << 31, (), generator=generator))
        return smooth_random_displacement(size, self.amplitude * strength, self.sigma, seed)
