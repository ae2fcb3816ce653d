"""jacobian_summary: folds, extremes and spread of the Jacobian determinant, without its map."""

from typing import NamedTuple

import torch

from regkit import reference
from regkit.ops import check, native
from regkit.ops.backends import register, triton_kernel


class JacobianSummary(NamedTuple):
    """One value a volume in each, (B,) float64."""

    folds: torch.Tensor  # share of the voxels with J <= 0
    det_min: torch.Tensor
    det_max: torch.Tensor
    det_mean: torch.Tensor
    sdlogj: torch.Tensor  # standard deviation of log J over the voxels with J > 0
    sdlogj_learn2reg: torch.Tensor


def jacobian_summary(
    u: torch.Tensor,  # (B, D, *spatial), voxels
    *,
    mask: torch.Tensor | None = None,  # (B, 1, *spatial)
) -> JacobianSummary:
    """What is reported of J = det(I + grad u), see jacobian_determinant: in one pass, no map in memory, no wait for a GPU.

    - `folds`: share of voxels with J <= 0; `det_min`, `det_max`, `det_mean`: of J, NaN where any J is;
    - `sdlogj`: standard deviation of log J over the voxels with J > 0, J clipped at 1e-9 below. Folds don't enter: read it with `folds`;
    - `sdlogj_learn2reg`: as Learn2Reg's evaluation computes it, the deviation of log(clip(J + 3, 1e-9, 1e9)) without the two outermost
      voxels on each side. The + 3 hides folds and makes values several times smaller: compare it with Learn2Reg's only.

    Only voxels where mask is not 0 count; by default all. Standard deviations are over the population. What no voxel is left for is NaN.
    J is computed in float32 (float64 for float64), sums over the volume are float64. Not differentiable.

    Source: Leow et al. 2007 (log J), Hering et al. 2023 (Learn2Reg). Raises ValueError for shapes, TypeError for dtypes.
    """
    check.displacement(u, "u")
    if mask is not None:
        wanted = (u.shape[0], 1, *u.shape[2:])
        if tuple(mask.shape) != wanted:
            raise ValueError(f"mask must be (B, 1, *spatial) = {wanted} for this u, but came as {tuple(mask.shape)}")
    return JacobianSummary(*torch.ops.regkit.jacobian_summary(u.detach(), mask).unbind(1))


torch.library.define("regkit::jacobian_summary", "(Tensor u, Tensor? mask) -> Tensor")


@torch.library.register_fake("regkit::jacobian_summary")
def _fake(u, mask):
    return u.new_empty((u.shape[0], len(JacobianSummary._fields)), dtype=torch.float64)


def _cpp(u, mask):
    dtype = native.working_dtype(u)
    x = u.to(dtype).contiguous()
    chosen = None if mask is None else (mask != 0).contiguous()
    figures = u.new_empty((u.shape[0], len(JacobianSummary._fields)), dtype=torch.float64)
    native.function("jacobian_summary", dtype)(
        *map(native.address, (x, chosen, figures)), u.shape[1], u.shape[0], native.sizes(u.shape[2:]), torch.get_num_threads()
    )
    return figures


register("jacobian_summary", reference=reference.jacobian_summary, cpp=_cpp, triton=triton_kernel("jacobian_summary", "jacobian_summary"))
