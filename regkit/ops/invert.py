"""invert: the displacement that undoes another."""

import torch

from regkit import reference
from regkit.ops import check, native, packed
from regkit.ops.backends import register, triton_kernel


def invert(
    displacement: torch.Tensor,  # (B, D, *spatial), voxels
    *,
    iterations: int = 20,
    tolerance: float = 1e-3,
) -> torch.Tensor:  # (B, D, *spatial), voxels
    """The displacement v with `v(y) = -u(y + v(y))`, so that `y + v(y)` undoes `x + u(x)`. NOT differentiable: the result requires no grad.

    Fixed-point iteration `v <- -u(y + v)` from `v = -u(y)`, at most `iterations` times; a voxel is left alone once a round moves it by no
    more than `tolerance` voxels along any axis. u is interpolated linearly and continues beyond its edge with the edge's value.
    It converges where u stretches or squeezes by less than its own voxels (the derivatives of u below 1 in norm), by that factor a round;
    elsewhere v is what the last round gave, so check it: `v + warp(u, v, padding="border")` is 0 for an inverse.
    Coordinates and sums are float32 (float64 for float64); the result has the displacement's dtype. NaN gives NaN.

    Source: Chen et al. 2008, A simple fixed-point approach to invert a deformation field. Raises ValueError for shapes, iterations and
    tolerance, TypeError for dtypes.
    """
    check.displacement(displacement)
    check.at_least(iterations, "iterations", 0)
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be a number of voxels from 0 up, but came as {tolerance}")
    return torch.ops.regkit.invert(displacement.detach(), iterations, tolerance)


torch.library.define("regkit::invert", "(Tensor displacement, int iterations, float tolerance) -> Tensor")


@torch.library.register_fake("regkit::invert")
def _fake(displacement, iterations, tolerance):
    return displacement.new_empty(displacement.shape)


def _cpp(displacement, iterations, tolerance):
    u = displacement.to(native.working_dtype(displacement)).contiguous()
    source, out, size = packed.pack(u), torch.empty_like(u), native.sizes(u.shape[2:])
    native.function("field_invert", u.dtype)(
        native.address(source), native.address(out), u.shape[1], u.shape[0], size, iterations, tolerance, torch.get_num_threads()
    )
    return out.to(displacement.dtype)


register("invert", reference=reference.invert, cpp=_cpp, triton=triton_kernel("invert", "invert"))
