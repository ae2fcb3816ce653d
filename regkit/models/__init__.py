"""Registration networks, one file each: `network(fixed, moving)` gives the displacement in voxels."""

from regkit.models.conditional_lapirn import ConditionalLapIRN
from regkit.models.lapirn import LapIRN
from regkit.models.voxelmorph import VoxelMorph

__all__ = ["ConditionalLapIRN", "LapIRN", "VoxelMorph"]
