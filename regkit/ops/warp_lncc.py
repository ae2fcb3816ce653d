"""warp_lncc: squared local normalised cross-correlation of an image and a warped one, without the warped one."""

import torch

from regkit import reference
from regkit.ops import check, cuda, native, warp_lncc_cuda
from regkit.ops.backends import register, triton_kernel
from regkit.ops.chained import chained
from regkit.ops.warped import checked


def warp_lncc(
    fixed: torch.Tensor,  # (B, C, *spatial)
    moving: torch.Tensor,  # (B, C, *moving_spatial)
    displacement: torch.Tensor,  # (B, D, *spatial), voxels
    *,
    window: int = 9,
    weight: torch.Tensor | None = None,  # (B, 1, *spatial)
    padding: str = "zeros",
    fill: float = 0.0,
    eps: float = 1e-5,
    recompute: bool = False,
) -> torch.Tensor:  # scalar
    """`lncc(fixed, warp(moving, displacement))` in one sweep: the similarity term of a registration.

    The mean over all voxels (weighted mean if a weight is given) of the squared local normalised cross-correlation, 0 to 1, with windows of
    window^D voxels; formula and eps as in `lncc`, padding and fill as in `warp`. Coordinates, sums and the warped values, which are never
    rounded to the image's dtype, are float32 (float64 if an input is float64), and so is the result.

    Differentiable once, by the displacement only. No warped image and no sums stay in memory. By default the gradient is computed in the
    forward sweep and kept; with recompute=True nothing is kept but the inputs, and backward sweeps a second time: for memory, or where
    backward may not come.

    Source: Avants et al. 2008. Raises ValueError for shapes and options, TypeError for dtypes and where fixed, moving or weight require a
    gradient.
    """
    pad = checked("warp_lncc", "lncc(fixed, warp(moving, displacement))", fixed, moving, displacement, weight, padding)
    check.odd_window(window)
    need_gradient = torch.is_grad_enabled() and displacement.requires_grad and not recompute
    return torch.ops.regkit.warp_lncc(fixed, moving, displacement, weight, window, pad, fill, eps, need_gradient)[0]


_ARGUMENTS = "Tensor fixed, Tensor moving, Tensor displacement, Tensor? weight, int window, int padding, float fill, float eps"
torch.library.define("regkit::warp_lncc", f"({_ARGUMENTS}, bool need_gradient) -> (Tensor, Tensor)")
torch.library.define("regkit::warp_lncc_backward", f"(Tensor grad, {_ARGUMENTS}) -> Tensor")


@torch.library.register_fake("regkit::warp_lncc")
def _fake(fixed, moving, displacement, weight, window, padding, fill, eps, need_gradient):
    dtype = native.working_dtype(fixed, moving, displacement)
    gradient = displacement.new_empty(displacement.shape if need_gradient else 0, dtype=dtype)
    return fixed.new_empty((), dtype=dtype), gradient


@torch.library.register_fake("regkit::warp_lncc_backward")
def _fake_backward(grad, fixed, moving, displacement, weight, window, padding, fill, eps):
    return displacement.new_empty(displacement.shape)


def _sweep(fixed, moving, displacement, weight, window, padding, fill, eps, need_gradient, factor=1.0):
    """The mean, and factor times its gradient or None."""
    dtype = native.working_dtype(fixed, moving, displacement)
    count = fixed.numel() if weight is None else weight.sum(dtype=torch.float64).item() * fixed.shape[1]
    if count == 0:  # nothing to average: NaN, as torch's mean, and no gradient
        return fixed.new_full((), float("nan"), dtype=dtype), displacement.new_zeros(displacement.shape, dtype=dtype)
    f, m, u = (x.to(dtype).contiguous() for x in (fixed, moving, displacement))
    w = None if weight is None else weight.to(dtype).contiguous()
    gradient = u.new_empty(u.shape) if need_gradient else None
    total = torch.empty((), dtype=torch.float64)
    dims = displacement.shape[1]
    native.function("warp_lncc", dtype)(
        *map(native.address, (f, m, u, w, gradient, total)), factor / count, dims, *fixed.shape[:2],
        native.sizes(moving.shape[2:]), native.sizes(fixed.shape[2:]), native.sizes((window,) * dims), padding, fill, eps,
        torch.get_num_threads(),
    )  # fmt: skip
    return (total / count).to(dtype), gradient


def _cpp(fixed, moving, displacement, weight, window, padding, fill, eps, need_gradient):
    value, gradient = _sweep(fixed, moving, displacement, weight, window, padding, fill, eps, need_gradient)
    return value, gradient if need_gradient else value.new_empty(0)


def _cpp_backward(grad, fixed, moving, displacement, weight, window, padding, fill, eps):
    _, gradient = _sweep(fixed, moving, displacement, weight, window, padding, fill, eps, True, grad.item())
    return gradient.to(displacement.dtype)


def _cuda(op: str):
    """The op by CUDA C++, or by Triton what those kernels are not made for."""

    def serves(*args) -> bool:
        fixed, moving, displacement, _, window = args[1:6] if op == "warp_lncc_backward" else args[:5]
        return warp_lncc_cuda.serves(fixed, moving, displacement, window)

    return cuda.kernel(getattr(warp_lncc_cuda, op), triton_kernel("warp_lncc", op), serves)


for op, by_reference, by_cpp in (
    ("warp_lncc", reference.warp_lncc, _cpp),
    ("warp_lncc_backward", reference.warp_lncc_backward, _cpp_backward),
):
    register(op, reference=by_reference, cpp=by_cpp, cuda=_cuda(op), triton=triton_kernel("warp_lncc", op))


def _setup_context(ctx, inputs, output):
    *tensors, ctx.window, ctx.padding, ctx.fill, ctx.eps, ctx.need_gradient = inputs
    ctx.dtype = inputs[2].dtype
    ctx.save_for_backward(*([output[1]] if ctx.need_gradient else tensors))
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad, _):
    gradient = None
    if grad is not None and ctx.needs_input_grad[2]:
        if ctx.need_gradient:
            gradient = chained(grad, ctx.saved_tensors[0], ctx.dtype)
        else:
            gradient = torch.ops.regkit.warp_lncc_backward(grad, *ctx.saved_tensors, ctx.window, ctx.padding, ctx.fill, ctx.eps)
    return None, None, gradient, *(None,) * 6


torch.library.register_autograd("regkit::warp_lncc", _backward, setup_context=_setup_context)
