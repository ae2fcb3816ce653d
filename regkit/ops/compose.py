"""compose: one displacement after another."""

import torch

from regkit import reference
from regkit.ops import check, native, packed
from regkit.ops.backends import register, triton_kernel


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
    return v.shape[1], v.shape[0], native.sizes(u.shape[2:]), native.sizes(v.shape[2:]), torch.get_num_threads()


def _cpp(u, v):
    dtype = native.working_dtype(u, v)
    x, y = packed.pack(u.to(dtype).contiguous()), v.to(dtype).contiguous()
    out = torch.empty_like(y)
    native.function("field_compose", dtype)(native.address(x), native.address(y), False, native.address(out), False, *_geometry(u, v))
    return out.to(torch.promote_types(u.dtype, v.dtype))


def _cpp_backward(grad, u, v, need_u, need_v):
    dtype = native.working_dtype(u, v)
    g, y = grad.to(dtype).contiguous(), v.to(dtype).contiguous()
    x = packed.pack(u.to(dtype).contiguous()) if need_v else None
    grad_u = torch.empty(u.shape, dtype=dtype) if need_u else None  # packed
    grad_v = torch.empty_like(y) if need_v else None
    native.function("field_compose_backward", dtype)(
        native.address(g), False, native.address(x), native.address(y), False, *map(native.address, (grad_u, grad_v)), *_geometry(u, v)
    )
    return (
        packed.unpack(grad_u, u.shape).to(u.dtype) if need_u else u.new_empty(0),
        grad_v.to(v.dtype) if need_v else v.new_empty(0),
    )


register("compose", reference=reference.compose, cpp=_cpp, triton=triton_kernel("compose", "compose"))
register(
    "compose_backward",
    reference=reference.compose_backward,
    cpp=_cpp_backward,
    triton=triton_kernel("compose", "compose_backward"),
)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    u, v = ctx.saved_tensors
    need_u, need_v = ctx.needs_input_grad
    grad_u, grad_v = torch.ops.regkit.compose_backward(grad, u, v, need_u, need_v)
    return grad_u if need_u else None, grad_v if need_v else None


torch.library.register_autograd("regkit::compose", _backward, setup_context=_setup_context)
