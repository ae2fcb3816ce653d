"""What a network finds of a pair, and how a displacement is taken to an image of another size."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LevelFields:
    """The displacement, and what is behind it, in voxels of the grid that each lies on."""

    displacement: torch.Tensor  # (B, D, *level)
    velocity: torch.Tensor | None  # (B, D, *level), VoxelMorph's on a coarser grid; None unless diffeomorphic

    @property
    def regularised(self) -> torch.Tensor:
        """The field whose roughness is penalised: the velocity where there is one."""
        return self.displacement if self.velocity is None else self.velocity

    def at(self, moving_size: torch.Size) -> torch.Tensor:
        """The displacement that takes this level's voxels to those of a moving image of another size: corners on corners."""
        return to_size(self.displacement, moving_size)


def to_size(displacement: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """The displacement (B, D, *spatial) from its own voxels to those of an image of `size` over the same box, corners on corners.

    With n and N voxels along an axis, voxel i lies on voxel i (N - 1) / (n - 1), and a displacement grows by the same factor.
    """
    if tuple(displacement.shape[2:]) == tuple(size):
        return displacement
    dims, parts = len(size), []
    for d, (n, whole) in enumerate(zip(displacement.shape[2:], size)):
        factor = (whole - 1) / (n - 1)
        place = torch.arange(n, device=displacement.device, dtype=displacement.dtype).reshape([-1 if a == d else 1 for a in range(dims)])
        parts.append(displacement[:, d] * factor + place * (factor - 1))
    return torch.stack(parts, 1)
