"""jacobian_determinant: local change of volume under a displacement."""

import torch

from regkit import reference
from regkit.ops import check, native
from regkit.ops.backends import register, triton_kernel


def jacobian_determinant(
    u: torch.Tensor,  # (B, D, *spatial), voxels
) -> torch.Tensor:  # (B, 1, *spatial)
    """`det(I + grad u)` at every voxel: the volume, in voxels, that a voxel is mapped to. Below 0 the map folds.

    Derivatives are central differences, one-sided at the border (np.gradient's rule), and 0 along an axis of one voxel. Voxel units need no
    spacing: for a displacement in mm divide each component by its spacing first. Differentiable once by u. Computed in float32 (float64 for
    float64), result in u's dtype.

    Raises ValueError for shapes, TypeError for dtypes.
    """
    check.displacement(u, "u")
    return torch.ops.regkit.jacobian_determinant(u)


torch.library.define("regkit::jacobian_determinant", "(Tensor u) -> Tensor")
torch.library.define("regkit::jacobian_determinant_backward", "(Tensor grad, Tensor u) -> Tensor")


@torch.library.register_fake("regkit::jacobian_determinant")
def _fake(u):
    return u.new_empty((u.shape[0], 1, *u.shape[2:]))


@torch.library.register_fake("regkit::jacobian_determinant_backward")
def _fake_backward(grad, u):
    return u.new_empty(u.shape)


def _cpp(u):
    dtype = native.working_dtype(u)
    x = u.to(dtype).contiguous()
    out = x.new_empty((u.shape[0], 1, *u.shape[2:]))
    geometry = u.shape[1], u.shape[0], native.sizes(u.shape[2:])
    native.function("jacobian_determinant", dtype)(*map(native.address, (x, out)), *geometry, torch.get_num_threads())
    return out.to(u.dtype)


def _cpp_backward(grad, u):
    dtype = native.working_dtype(u)
    g, x = grad.to(dtype).contiguous(), u.to(dtype).contiguous()
    out = torch.empty_like(x)
    geometry = u.shape[1], u.shape[0], native.sizes(u.shape[2:])
    native.function("jacobian_determinant_grad", dtype)(*map(native.address, (g, x, out)), *geometry, torch.get_num_threads())
    return out.to(u.dtype)


register(
    "jacobian_determinant", reference=reference.jacobian_determinant, cpp=_cpp, triton=triton_kernel("jacobian", "jacobian_determinant")
)
register(
    "jacobian_determinant_backward",
    reference=reference.jacobian_determinant_backward,
    cpp=_cpp_backward,
    triton=triton_kernel("jacobian", "jacobian_determinant_backward"),
)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    return torch.ops.regkit.jacobian_determinant_backward(grad, *ctx.saved_tensors)


torch.library.register_autograd("regkit::jacobian_determinant", _backward, setup_context=_setup_context)
