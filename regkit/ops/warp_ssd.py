"""warp_ssd: mean squared difference of an image and a warped one, without the warped one."""

import torch

from regkit import reference
from regkit.ops import cuda, native, warp_ssd_cuda
from regkit.ops.backends import register, triton_kernel
from regkit.ops.chained import chained
from regkit.ops.warped import checked, stored


def warp_ssd(
    fixed: torch.Tensor,  # (B, C, *spatial)
    moving: torch.Tensor,  # (B, C, *moving_spatial)
    displacement: torch.Tensor,  # (B, D, *spatial), voxels
    *,
    weight: torch.Tensor | None = None,  # (B, 1, *spatial)
    padding: str = "zeros",
    fill: float = 0.0,
) -> torch.Tensor:  # scalar
    """Mean of `(warp(moving, displacement) - fixed)^2` in one pass: the similarity term for intensities of one scale, and for features.

        sum_{b, c, x} w(x) (moving_c(x + u(x)) - fixed_c(x))^2 / (C sum_{b, x} w(x)),      w = 1 without a weight

    Padding and fill as in `warp`. Coordinates, sums and the warped values, which are never rounded to the images' dtype, are float32
    (float64 if an input is float64), and so is the result. With MIND features as images (mind_ssc, 12 channels) it is the usual multimodal
    similarity; channels of float16 halve what is read.

    Differentiable once, by the displacement only: the gradient is computed in the forward pass if it may be asked for, and kept alone.

    Source: Heinrich et al. 2012 (MIND). Raises ValueError for shapes and options, TypeError for dtypes and where fixed, moving or weight
    require a gradient.
    """
    pad = checked("warp_ssd", "(warp(moving, displacement) - fixed).square().mean()", fixed, moving, displacement, weight, padding)
    need_gradient = torch.is_grad_enabled() and displacement.requires_grad
    return torch.ops.regkit.warp_ssd(fixed, moving, displacement, weight, pad, fill, need_gradient)[0]


torch.library.define(
    "regkit::warp_ssd",
    "(Tensor fixed, Tensor moving, Tensor displacement, Tensor? weight, int padding, float fill, bool need_gradient) -> (Tensor, Tensor)",
)


@torch.library.register_fake("regkit::warp_ssd")
def _fake(fixed, moving, displacement, weight, padding, fill, need_gradient):
    dtype = native.working_dtype(fixed, moving, displacement)
    return fixed.new_empty((), dtype=dtype), displacement.new_empty(displacement.shape if need_gradient else 0, dtype=dtype)


def _cpp(fixed, moving, displacement, weight, padding, fill, need_gradient):
    dtype = native.working_dtype(fixed, moving, displacement)
    gradient = displacement.new_empty(displacement.shape if need_gradient else 0, dtype=dtype)
    count = fixed.numel() if weight is None else weight.sum(dtype=torch.float64).item() * fixed.shape[1]
    if count == 0:  # nothing to average: NaN, as torch's mean, and no gradient
        return fixed.new_full((), float("nan"), dtype=dtype), gradient.zero_()
    f, m = stored(fixed, moving, dtype)
    u, w = displacement.to(dtype).contiguous(), None if weight is None else weight.to(dtype).contiguous()
    total = torch.empty((), dtype=torch.float64)
    into = gradient if need_gradient else None
    native.function("warp_ssd", f.dtype)(
        *map(native.address, (f, m, u, w, into, total)), 1 / count, displacement.shape[1], *fixed.shape[:2],
        native.sizes(moving.shape[2:]), native.sizes(fixed.shape[2:]), padding, fill, torch.get_num_threads(),
    )  # fmt: skip
    return (total / count).to(dtype), gradient


register(
    "warp_ssd", reference=reference.warp_ssd, cpp=_cpp,
    cuda=cuda.kernel(warp_ssd_cuda.warp_ssd, triton_kernel("warp_ssd", "warp_ssd"), warp_ssd_cuda.serves),
    triton=triton_kernel("warp_ssd", "warp_ssd"),
)  # fmt: skip


def _setup_context(ctx, inputs, output):
    ctx.need_gradient, ctx.dtype = inputs[-1], inputs[2].dtype
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad, _):
    wanted = grad is not None and ctx.need_gradient and ctx.needs_input_grad[2]
    return None, None, chained(grad, ctx.saved_tensors[0], ctx.dtype) if wanted else None, *(None,) * 4


torch.library.register_autograd("regkit::warp_ssd", _backward, setup_context=_setup_context)
