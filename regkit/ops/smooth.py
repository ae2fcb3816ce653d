"""smooth: three-tap smoothing along every axis."""

import torch

from regkit import reference
from regkit.ops import check, native
from regkit.ops.backends import register, triton_kernel


def smooth(x: torch.Tensor, *, side: float = 0.25) -> torch.Tensor:  # (B, C, *spatial) -> the same
    """Weighted mean of each voxel and its neighbours, `[side, 1 - 2 side, side]` along each axis in turn, borders repeated.

    side = 1/4 is the binomial filter (variance 1/2 voxel^2 an axis), 1/3 the box of three. The operator is linear, symmetric and keeps the
    mean; being its own adjoint, it is also its backward. Computed in float32 (float64 for float64); the result has x's dtype.

    Parametrising a displacement as u = smooth(p) is a B-spline-like way to keep an optimiser's steps smooth.
    Raises ValueError for shapes and side, TypeError for dtypes.
    """
    check.image(x, "x")
    check.floating(x, "x")
    if not 0 <= side <= 0.5:
        raise ValueError(f"side must be between 0 and 0.5, but came as {side}")
    return torch.ops.regkit.smooth(x, side)


torch.library.define("regkit::smooth", "(Tensor x, float side) -> Tensor")


@torch.library.register_fake("regkit::smooth")
def _fake(x, side):
    return x.new_empty(x.shape)


def _cpp(x, side):
    dtype = native.working_dtype(x)
    source = x.to(dtype).contiguous()
    out = torch.empty_like(source)
    native.function("smooth", dtype)(
        native.address(source), native.address(out), x.shape[0] * x.shape[1], native.sizes(x.shape[2:]), side, torch.get_num_threads()
    )
    return out.to(x.dtype)


register("smooth", reference=reference.smooth, cpp=_cpp, triton=triton_kernel("smooth", "smooth"))


def _setup_context(ctx, inputs, output):
    ctx.side = inputs[1]


def _backward(ctx, grad):
    return torch.ops.regkit.smooth(grad, ctx.side), None


torch.library.register_autograd("regkit::smooth", _backward, setup_context=_setup_context)
