"""diffusion_energy: how rough a field is."""

from collections.abc import Sequence

import torch

from regkit import reference
from regkit.ops import check, native
from regkit.ops.backends import register, triton_kernel
from regkit.ops.chained import chained


def diffusion_energy(
    u: torch.Tensor,  # (B, C, *spatial)
    *,
    spacing: float | Sequence[float] | None = None,  # one value an axis
) -> torch.Tensor:  # scalar
    """Mean squared gradient of a field, of any number of channels: displacement, velocity, features.

        E = 1/D sum_d mean_{b, c, x} ((u(x + e_d) - u(x)) / spacing_d)^2

    with D axes; the mean for axis d runs over the batch, the channels and the voxels that have a neighbour at x + e_d. An axis of one voxel
    counts as 0.
    Equals VoxelMorph's Grad("l2") loss for spacing 1 (the default); spacing divides the differences, so it is in the unit that the axis is
    measured in.
    Differentiable once by u. The gradient is computed in the forward pass, if u requires one and gradients are enabled.
    The result is float32 (float64 for float64). Nothing to average (no voxels) gives NaN, as torch's mean.

    Source: Balakrishnan et al. 2019 (VoxelMorph). Raises ValueError for shapes and spacing, TypeError for dtypes.
    """
    dims = check.image(u, "u")
    check.floating(u, "u")
    spacings = check.per_axis(1.0 if spacing is None else spacing, "spacing", dims)
    if min(spacings) <= 0:
        raise ValueError(f"spacing must be positive, but came as {spacing}")
    return torch.ops.regkit.diffusion_energy(u, spacings, torch.is_grad_enabled() and u.requires_grad)[0]


torch.library.define("regkit::diffusion_energy", "(Tensor u, float[] spacing, bool need_gradient) -> (Tensor, Tensor)")


@torch.library.register_fake("regkit::diffusion_energy")
def _fake(u, spacing, need_gradient):
    dtype = native.working_dtype(u)
    return u.new_empty((), dtype=dtype), u.new_empty(u.shape if need_gradient else 0, dtype=dtype)


def _cpp(u, spacing, need_gradient):
    dtype = native.working_dtype(u)
    x = u.to(dtype).contiguous()
    gradient = torch.empty_like(x) if need_gradient else None
    energy = torch.empty((), dtype=torch.float64)
    if x.numel() == 0:
        return x.new_full((), float("nan")), x.new_empty(0) if gradient is None else gradient
    # The differences of axis d number numel (n_d - 1) / n_d: one factor in front, and one weight an axis of about 1.
    weights = [n / ((n - 1) * s * s) if n > 1 else 0.0 for n, s in zip(u.shape[2:], spacing)]
    count = u.numel() * len(spacing)
    native.function("diffusion_energy", dtype)(
        *map(native.address, (x, gradient, energy)), 1 / count, u.shape[0] * u.shape[1], native.sizes(u.shape[2:]),
        native.sizes(weights, 0.0), torch.get_num_threads(),
    )  # fmt: skip
    return (energy / count).to(dtype), x.new_empty(0) if gradient is None else gradient


register("diffusion_energy", reference=reference.diffusion_energy, cpp=_cpp, triton=triton_kernel("diffusion", "diffusion_energy"))


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


torch.library.register_autograd("regkit::diffusion_energy", _backward, setup_context=_setup_context)
