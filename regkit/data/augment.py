"""Random affines for training: turned, shifted and scaled about the image's centre, as one matrix for ops.warp_affine.

Published settings for LapIRN (Mok and Chung, Learn2Reg 2020): with probability 0.1, A = Rx Ry Rz T with rotations of up to 10 degrees,
translations of up to 0.05 and scales of up to 0.08, all uniform. Which units translations are in, whether axes scale together, and in which
space turns are made is not stated there; what is taken here stands with AffineAugmentation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class AffineAugmentation:
    """Ranges of a random affine: every number is uniform between minus and plus the range.

    rotation: degrees, about each axis; in 2-D the one angle in the plane. Turns are made in voxels, which are taken as cubes, so that they
        shear nothing whatever the image's proportions.
    translation: along each axis, as a fraction of half the image's size (of 1, where the image spans -1 to 1).
    scale: along each axis of its own, a factor of 1 + s.
    """

    probability: float = 0.1
    rotation: float = 10.0
    translation: float = 0.05
    scale: float = 0.08

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be from 0 to 1, but came as {self.probability}")
        for name in ("rotation", "translation", "scale"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is a range around 0 and must be 0 or more, but came as {getattr(self, name)}")
        if self.scale >= 1:
            raise ValueError(f"scale must be below 1, for 1 + s is a factor that must be positive, but came as {self.scale}")

    def draw(self, size: Sequence[int], generator: torch.Generator) -> torch.Tensor | None:
        """A matrix (D, D+1), float64, from voxels of the augmented image to voxels of the image of this size; or None for no change.

        `x -> c + Rx Ry Rz (S (x - c) + t)` with c the centre and axes x, y, z = 0, 1, 2; in 2-D one R. The generator moves on by the same
        count of numbers whatever comes out.
        """
        dims = len(size)
        if dims not in (2, 3):
            raise ValueError(f"size must be of 2 or 3 axes, but came as {tuple(size)}")
        turns = 3 if dims == 3 else 1
        chance, *signed = torch.rand(1 + turns + 2 * dims, generator=generator, dtype=torch.float64)
        if chance >= self.probability:
            return None
        signed = 2 * torch.stack(signed) - 1
        extent = torch.tensor(size, dtype=torch.float64)
        shift = signed[turns : turns + dims] * self.translation * extent / 2
        linear = torch.diag(1 + self.scale * signed[turns + dims :])
        rotation = torch.eye(dims, dtype=torch.float64)
        for plane, angle in zip(((1, 2), (2, 0), (0, 1)) if dims == 3 else ((0, 1),), signed[:turns] * math.radians(self.rotation)):
            rotation = rotation @ _turn(dims, *plane, angle)
        center = (extent - 1) / 2
        return torch.cat([rotation @ linear, (center + rotation @ (shift - linear @ center))[:, None]], 1)


def _turn(dims: int, a: int, b: int, angle: torch.Tensor) -> torch.Tensor:
    """Rotation in the plane of two axes, from a towards b."""
    matrix = torch.eye(dims, dtype=torch.float64)
    matrix[a, a] = matrix[b, b] = angle.cos()
    matrix[b, a] = angle.sin()
    matrix[a, b] = -angle.sin()
    return matrix
