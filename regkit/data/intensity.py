"""Random changes of grey values for training, so that a network does not learn its few scans by their shades."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class IntensityAugmentation:
    """`x ^ exp(g) + noise`, clipped to 0..1, where the image is above 0; what is 0 (outside the scan) stays so.

    probability: of any change. gamma: g is uniform between minus and plus this. noise: standard deviation of normal noise, uniform
        between 0 and this.
    """

    probability: float = 0.0
    gamma: float = 0.3
    noise: float = 0.03

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be from 0 to 1, but came as {self.probability}")
        for name in ("gamma", "noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, but came as {getattr(self, name)}")

    def apply(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A changed copy of an image of values 0..1, or the image itself."""
        chance, power, strength = torch.rand(3, generator=generator).tolist()
        if chance >= self.probability:
            return image
        changed = image.pow(math.exp(self.gamma * (2 * power - 1)))
        changed += self.noise * strength * torch.randn(image.shape, generator=generator)
        return torch.where(image > 0, changed.clamp(0, 1), image)
