"""compose: one displacement after another."""

import torch

from regkit import reference
from regkit.ops import check, native
from regkit.ops.backends import register
from regkit.ops.warp import PADDINGS

BORDER = PADDINGS.index("border")


def compose(
    u: torch.Tensor,  # (B, D, *u_spatial), voxels
    v: torch.Tensor,  # (B, D, *spatial), voxels
) -> torch.Tensor:  # (B, D, *spatial)
    """The displacement of "v first, then u": `(u o v)(x) = v(x) + u(x + v(x))`.

    x runs over the voxels of v; u is interpolated linearly and continues beyond its edge with the edge's value. u may have another size
    than v, its voxels being v's: index 0 of both is the same place. `warp(image, compose(u, v))` equals `warp(warp(image, u), v)` up to
    interpolation.
    Differentiable once by u and v. Coordinates and sums are float32 (float64 if an input is float64); the result has the dtype that u + v
    would have.

    Raises ValueError for shapes, TypeError for dtypes.
    """
    check.displacement(u, "u")
    dims = check.displacement(v, "v")
    check.image(u, "u", dims)
    check.same("batch size", u=u.shape[0], v=v.shape[0])
    check.same("device", u=u.device, v=v.device)
    if min(u.shape[2:]) == 0 and v.numel():
        raise ValueError(f"u must have at least one voxel on every axis, but came as {tuple(u.shape)}")
    return torch.ops.regkit.compose(u, v)


torch.library.define("regkit::compose", "(Tensor u, Tensor v) -> Tensor")
torch.library.define("regkit::compose_backward", "(Tensor grad, Tensor u, Tensor v, bool need_u, bool need_v) -> (Tensor, Tensor)")


@torch.library.register_fake("regkit::compose")
def _fake(u, v):
    return v.new_empty(v.shape, dtype=torch.promote_types(u.dtype, v.dtype))


@torch.library.register_fake("regkit::compose_backward")
def _fake_backward(grad, u, v, need_u, need_v):
    return u.new_empty(u.shape if need_u else 0), v.new_empty(v.shape if need_v else 0)


def _geometry(u: torch.Tensor, v: torch.Tensor) -> tuple:
    return v.shape[1], v.shape[0], v.shape[1], native.sizes(u.shape[2:]), native.sizes(v.shape[2:])


def _cpp(u, v):
    dtype = native.working_dtype(u, v)
    x, y = u.to(dtype).contiguous(), v.to(dtype).contiguous()
    out = torch.empty_like(y)
    native.function("warp", dtype)(*map(native.address, (x, y, out)), *_geometry(u, v), BORDER, 0.0, True, torch.get_num_threads())
    return out.to(torch.promote_types(u.dtype, v.dtype))


def _cpp_backward(grad, u, v, need_u, need_v):
    dtype = native.working_dtype(u, v)
    g, y = grad.to(dtype).contiguous(), v.to(dtype).contiguous()
    geometry, threads = _geometry(u, v), torch.get_num_threads()
    grad_u, grad_v = u.new_empty(0), v.new_empty(0)
    if need_u:
        out = g.new_empty(u.shape)
        native.function("warp_grad_image", dtype)(*map(native.address, (g, y, out)), *geometry, BORDER, threads)
        grad_u = out.to(u.dtype)
    if need_v:
        x, out = u.to(dtype).contiguous(), torch.empty_like(y)
        native.function("warp_grad_displacement", dtype)(*map(native.address, (g, x, y, out)), *geometry, BORDER, 0.0, True, threads)
        grad_v = out.to(v.dtype)
    return grad_u, grad_v


register("compose", reference=reference.compose, cpp=_cpp)
register("compose_backward", reference=reference.compose_backward, cpp=_cpp_backward)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    u, v = ctx.saved_tensors
    need_u, need_v = ctx.needs_input_grad
    grad_u, grad_v = torch.ops.regkit.compose_backward(grad, u, v, need_u, need_v)
    return grad_u if need_u else None, grad_v if need_v else None


torch.library.register_autograd("regkit::compose", _backward, setup_context=_setup_context)
