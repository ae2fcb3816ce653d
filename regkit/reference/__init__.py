"""Every op in plain torch: the specification. Slow, readable, on any device; same names and arguments as the torch.ops.regkit ops."""

from regkit.reference.bending import bending_energy
from regkit.reference.compose import compose, compose_backward
from regkit.reference.correlate import correlate_keypoints, correlate_keypoints_backward
from regkit.reference.correlate_dense import correlate_dense, correlate_dense_backward
from regkit.reference.diffusion import diffusion_energy
from regkit.reference.displacement_search import (
    best_displacement,
    embed_displacements,
    embed_displacements_backward,
    expected_displacement,
    expected_displacement_backward,
)
from regkit.reference.integrate import integrate_velocity, integrate_velocity_backward
from regkit.reference.invert import invert
from regkit.reference.jacobian import jacobian_determinant, jacobian_determinant_backward
from regkit.reference.jacobian_summary import jacobian_summary
from regkit.reference.lncc import lncc, lncc_map, lncc_map_backward
from regkit.reference.mind import mind_ssc, mind_ssc_backward
from regkit.reference.similarity_maps import similarity_maps
from regkit.reference.smooth import smooth
from regkit.reference.soft_dice import soft_dice, soft_dice_backward
from regkit.reference.upsample import upsample, upsample_backward
from regkit.reference.warp import warp, warp_backward, warp_nearest
from regkit.reference.warp_affine import warp_affine, warp_affine_nearest
from regkit.reference.warp_labels import warp_labels
from regkit.reference.warp_lncc import warp_lncc, warp_lncc_backward
from regkit.reference.warp_ssd import warp_ssd

__all__ = [
    "bending_energy",
    "best_displacement",
    "compose",
    "compose_backward",
    "correlate_dense",
    "correlate_dense_backward",
    "correlate_keypoints",
    "correlate_keypoints_backward",
    "diffusion_energy",
    "embed_displacements",
    "embed_displacements_backward",
    "expected_displacement",
    "expected_displacement_backward",
    "integrate_velocity",
    "integrate_velocity_backward",
    "invert",
    "jacobian_determinant",
    "jacobian_determinant_backward",
    "jacobian_summary",
    "lncc",
    "lncc_map",
    "lncc_map_backward",
    "mind_ssc",
    "mind_ssc_backward",
    "similarity_maps",
    "smooth",
    "soft_dice",
    "soft_dice_backward",
    "upsample",
    "upsample_backward",
    "warp",
    "warp_affine",
    "warp_affine_nearest",
    "warp_backward",
    "warp_labels",
    "warp_lncc",
    "warp_lncc_backward",
    "warp_nearest",
    "warp_ssd",
]
