"""Fused ops for image registration on (B, C, *spatial) tensors, 2-D and 3-D, in voxel units.

Displacements are (B, D, *spatial) in voxels, component d along array axis d, pull direction: `moved(x) = moving(x + u(x))`.
"""

from regkit.ops.backends import available, backend
from regkit.ops.bending import bending_energy
from regkit.ops.compose import compose
from regkit.ops.correlate import correlate_keypoints
from regkit.ops.correlate_dense import correlate_dense
from regkit.ops.diffusion import diffusion_energy
from regkit.ops.displacement_search import best_displacement, expected_displacement
from regkit.ops.embed_displacements import embed_displacements
from regkit.ops.integrate import integrate_velocity
from regkit.ops.invert import invert
from regkit.ops.jacobian import jacobian_determinant
from regkit.ops.jacobian_summary import JacobianSummary, jacobian_summary
from regkit.ops.lncc import lncc
from regkit.ops.mind import mind_ssc
from regkit.ops.similarity_maps import similarity_maps
from regkit.ops.smooth import smooth
from regkit.ops.soft_dice import soft_dice
from regkit.ops.upsample import upsample
from regkit.ops.warp import warp
from regkit.ops.warp_affine import warp_affine
from regkit.ops.warp_labels import warp_labels
from regkit.ops.warp_lncc import warp_lncc
from regkit.ops.warp_ssd import warp_ssd

__all__ = [
    "JacobianSummary",
    "available",
    "backend",
    "bending_energy",
    "best_displacement",
    "compose",
    "correlate_dense",
    "correlate_keypoints",
    "diffusion_energy",
    "embed_displacements",
    "expected_displacement",
    "integrate_velocity",
    "invert",
    "jacobian_determinant",
    "jacobian_summary",
    "lncc",
    "mind_ssc",
    "similarity_maps",
    "smooth",
    "soft_dice",
    "upsample",
    "warp",
    "warp_affine",
    "warp_labels",
    "warp_lncc",
    "warp_ssd",
]
