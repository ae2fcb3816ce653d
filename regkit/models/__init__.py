"""Registration networks, one file each: `network(fixed, moving)` gives the displacement in voxels."""

from regkit.models.lapirn import LapIRN

__all__ = ["LapIRN"]
