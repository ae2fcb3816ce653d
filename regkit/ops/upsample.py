"""upsample: a field on coarse knots, resampled linearly to a fine grid."""

from collections.abc import Sequence

import torch

from regkit import reference
from regkit.ops import check, native
from regkit.ops.backends import register, triton_kernel


def upsample(
    u: torch.Tensor,  # (B, C, *coarse)
    size: Sequence[int],
    factor: float | Sequence[float],
    offset: float | Sequence[float] = 0.0,
    *,
    scale: float | Sequence[float] = 1.0,
) -> torch.Tensor:  # (B, C, *size)
    """Resamples a field linearly from coarse knots to a grid of `size`: `out(x) = scale * u((x - offset) / factor)`.

    Knot c of an axis lies at fine index `c * factor + offset`, and positions beyond the first and last knot take their value. factor and
    offset are given for all axes or one an axis; factor > 0 is usually size / coarse size. scale multiplies the values, one for all
    channels or one a channel: a displacement in coarse voxels becomes one in fine voxels by `scale=factor`.
    `offset=0` puts knot 0 on voxel 0; `offset=(factor - 1) / 2` aligns the outer edges of the voxels (torch's align_corners=False);
    `factor=(size - 1) / (coarse - 1)` aligns the corners (align_corners=True).
    Differentiable once by u: the backward is the exact adjoint. Computed in float32 (float64 for float64), result in u's dtype.

    Raises ValueError for shapes and options, TypeError for dtypes.
    """
    dims = check.image(u, "u")
    check.floating(u, "u")
    if len(size) != dims or min(size) < 0:
        raise ValueError(f"size must be {dims} voxel counts, one for each spatial axis of u, but came as {tuple(size)}")
    if min(u.shape[2:]) == 0:
        raise ValueError(f"u must have at least one voxel on every axis, but came as {tuple(u.shape)}")
    factors, offsets = check.per_axis(factor, "factor", dims), check.per_axis(offset, "offset", dims)
    if min(factors) <= 0:
        raise ValueError(f"factor must be positive, but came as {factor}")
    return torch.ops.regkit.upsample(u, list(size), factors, offsets, check.per_axis(scale, "scale", u.shape[1], "channel"))


torch.library.define("regkit::upsample", "(Tensor u, SymInt[] size, float[] factor, float[] offset, float[] scale) -> Tensor")
torch.library.define("regkit::upsample_backward", "(Tensor grad, SymInt[] size, float[] factor, float[] offset, float[] scale) -> Tensor")


@torch.library.register_fake("regkit::upsample")
@torch.library.register_fake("regkit::upsample_backward")
def _fake(u, size, factor, offset, scale):
    return u.new_empty((*u.shape[:2], *size))


def _launch(name: str, tensor: torch.Tensor, size, coarse, fine, factor, offset, scale) -> torch.Tensor:
    dtype = native.working_dtype(tensor)
    x, scales = tensor.to(dtype).contiguous(), torch.tensor(scale, dtype=dtype)
    out = x.new_empty((*tensor.shape[:2], *size))
    native.function(name, dtype)(
        *map(native.address, (x, out, scales)), tensor.shape[0], tensor.shape[1], native.sizes(coarse), native.sizes(fine),
        native.sizes(factor, 1.0), native.sizes(offset, 0.0), torch.get_num_threads(),
    )  # fmt: skip
    return out.to(tensor.dtype)


def _cpp(u, size, factor, offset, scale):
    return _launch("upsample", u, size, u.shape[2:], size, factor, offset, scale)


def _cpp_backward(grad, size, factor, offset, scale):
    return _launch("upsample_adjoint", grad, size, size, grad.shape[2:], factor, offset, scale)


register("upsample", reference=reference.upsample, cpp=_cpp, triton=triton_kernel("upsample", "upsample"))
register(
    "upsample_backward",
    reference=reference.upsample_backward,
    cpp=_cpp_backward,
    triton=triton_kernel("upsample", "upsample_backward"),
)


def _setup_context(ctx, inputs, output):
    u, _, *ctx.geometry = inputs
    ctx.size = u.shape[2:]


def _backward(ctx, grad):
    return torch.ops.regkit.upsample_backward(grad, ctx.size, *ctx.geometry), None, None, None, None


torch.library.register_autograd("regkit::upsample", _backward, setup_context=_setup_context)
