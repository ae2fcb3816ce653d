"""What aligns two scans while the pipeline works on it: an affine, and a displacement on some grid.

Where the displacement came from (keypoints or a network) and on which grid it lies makes no difference to what follows.
"""

from dataclasses import dataclass

import torch

from regkit.geometry import Affine, DisplacementField, Grid, total_displacement
from regkit.registration.field import extend


@dataclass(frozen=True)
class Motion:
    """A point p of the fixed world goes to affine(p + u(p)) in the moving world."""

    affine: Affine
    grid: Grid
    displacement: torch.Tensor
    """u: (1, D, *grid.shape) in voxels of `grid`."""

    @classmethod
    def still(cls, affine: Affine, grid: Grid, device: torch.device | str = "cpu") -> "Motion":
        """The affine alone."""
        return cls(affine, grid, torch.zeros(1, grid.ndim, *grid.shape, device=device))

    def on(self, grid: Grid) -> "Motion":
        """The displacement on another grid, of any place, shape and voxel size: linear in between, 0 beyond its own grid."""
        if grid == self.grid:
            return self
        field = DisplacementField.from_voxels(self.displacement[0].cpu().numpy(), self.grid)
        return Motion(self.affine, grid, total_displacement(field, grid, grid, device=self.displacement.device))

    def extended(self, whole: Grid) -> "Motion":
        """The displacement continued beyond its grid until it has faded, or covers `whole`; see `extend`."""
        displacement, wide = extend(self.displacement, self.grid, whole)
        return Motion(self.affine, wide, displacement)
