"""What the energies of a field share: their torch.ops return (energy, gradient), both from one pass, the gradient only if needed."""

from collections.abc import Callable, Sequence

import torch

from regkit import reference
from regkit.ops import check, native
from regkit.ops.backends import register, triton_kernel
from regkit.ops.chained import chained


def energy(op: str, u: torch.Tensor, spacing: float | Sequence[float] | None) -> torch.Tensor:
    """Checks the arguments of the public function and calls torch.ops.regkit.<op>."""
    dims = check.image(u, "u")
    check.floating(u, "u")
    spacings = check.per_axis(1.0 if spacing is None else spacing, "spacing", dims)
    if min(spacings) <= 0:
        raise ValueError(f"spacing must be positive, but came as {spacing}")
    return getattr(torch.ops.regkit, op)(u, spacings, torch.is_grad_enabled() and u.requires_grad)[0]


def connect(op: str, kernel: str, terms: Callable[[torch.Tensor, Sequence[float]], tuple]) -> None:
    """Defines torch.ops.regkit.<op> with its backends; `kernel` is its file in kernels/.

    terms(u, spacing): by what the C++ launcher's sum is divided, and the weights that it takes after the size.
    """
    torch.library.define(f"regkit::{op}", "(Tensor u, float[] spacing, bool need_gradient) -> (Tensor, Tensor)")

    @torch.library.register_fake(f"regkit::{op}")
    def _fake(u, spacing, need_gradient):
        dtype = native.working_dtype(u)
        return u.new_empty((), dtype=dtype), u.new_empty(u.shape if need_gradient else 0, dtype=dtype)

    def _cpp(u, spacing, need_gradient):
        dtype = native.working_dtype(u)
        x = u.to(dtype).contiguous()
        gradient = torch.empty_like(x) if need_gradient else None
        total = torch.empty((), dtype=torch.float64)
        if x.numel() == 0:
            return x.new_full((), float("nan")), x.new_empty(0) if gradient is None else gradient
        count, *weights = terms(u, spacing)
        native.function(op, dtype)(
            *map(native.address, (x, gradient, total)), 1 / count, u.shape[0] * u.shape[1], native.sizes(u.shape[2:]), *weights,
            torch.get_num_threads(),
        )  # fmt: skip
        return (total / count).to(dtype), x.new_empty(0) if gradient is None else gradient

    register(op, reference=getattr(reference, op), cpp=_cpp, triton=triton_kernel(kernel, op))
    torch.library.register_autograd(f"regkit::{op}", _backward, setup_context=_setup_context)


def _setup_context(ctx, inputs, output):
    u, _, ctx.need_gradient = inputs
    ctx.dtype = u.dtype
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad, _):
    if grad is None or not ctx.need_gradient:
        return None, None, None
    return chained(grad, ctx.saved_tensors[0], ctx.dtype), None, None
