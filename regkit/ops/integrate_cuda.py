"""Scaling and squaring by the kernels of csrc/cuda/integrate.cu: its steps, and what the device decides of them."""

import torch

from regkit.kernels import fixed_point
from regkit.ops import cuda, native

BORDER = 1  # the warp's padding


def _sizes(field: torch.Tensor) -> tuple:
    return field.shape[1], field.shape[0], native.sizes(field.shape[2:])


def _forward(v: torch.Tensor, steps: int, out: torch.Tensor) -> None:
    """out = the integral of the contiguous float32 velocity v; steps >= 1.

    The first steps are one kernel where they move no voxel by more than one; where they do it fails, and they follow one by one, which
    otherwise end at once: nothing waits for the device.
    """
    scale, sizes = 0.5**steps, _sizes(v)
    fused = min(steps, cuda.extension().integrate_most_fused)
    failed = torch.zeros(1, dtype=torch.int32, device=v.device)
    places = [torch.empty_like(v) for _ in range(min(2, steps - 1))]
    fields = [*(places[(steps - k) % 2] for k in range(1, steps)), out]  # after each step; the last is out
    cuda.run("integrate_first_steps", v, scale, fused, fields[fused - 1], failed, *sizes, device=v.device)
    for k in range(steps):
        u, by = (v, scale) if k == 0 else (fields[k - 1], 1.0)
        cuda.run("integrate_step", u, by, fields[k], failed if k < fused else None, *sizes, device=v.device)


def integrate_velocity(velocity, steps, save_steps):
    v = velocity.float().contiguous()
    saved = v.new_empty((steps * v.shape[0], *v.shape[1:]) if save_steps else 0)
    if steps == 0:
        return velocity.clone(memory_format=torch.contiguous_format), saved
    out = torch.empty_like(v)
    if not save_steps:
        _forward(v, steps, out)
        return out.to(velocity.dtype), saved
    _all_fields(v, steps, [*saved.tensor_split(steps), out])
    return out.to(velocity.dtype), saved


def _all_fields(v: torch.Tensor, steps: int, fields: list[torch.Tensor]) -> None:
    """Fills u_0, u_1, .., as many as there are."""
    torch.mul(v, 0.5**steps, out=fields[0])
    for u, following in zip(fields, fields[1:]):
        cuda.run("integrate_step", u, 1.0, following, None, *_sizes(v), device=v.device)


def integrate_velocity_backward(grad, velocity, saved, steps):
    if steps == 0:
        return grad.clone(memory_format=torch.contiguous_format)
    g = grad.float().contiguous()
    if saved.dim() > 1:
        fields = list(saved.contiguous().tensor_split(steps))
    else:
        fields = [torch.empty_like(g) for _ in range(steps)]
        _all_fields(velocity.float().contiguous(), steps, fields)
    if g.numel() == 0:
        return torch.empty_like(grad, memory_format=torch.contiguous_format)
    # |u_k| <= 2^k |u_0|: one maximum bounds the displacements of all steps.
    powers = torch.arange(steps, dtype=torch.float32, device=g.device)
    largest = torch.linalg.vector_norm(fields[0], torch.inf) * torch.exp2(powers)
    scattered = torch.empty_like(g)
    for k in reversed(range(steps)):
        g = _backward_step(g, fields[k], largest[k], scattered, 0.5**steps if k == 0 else 1.0)
    return g.to(grad.dtype)


def _backward_step(grad, u, largest, scattered, scale: float) -> torch.Tensor:
    sizes = dims, batch, size = _sizes(u)
    geometry, device = (dims, batch, dims, size, size, BORDER), u.device
    if torch.are_deterministic_algorithms_enabled():
        # A NaN displacement, which has no whole number of units, makes the whole gradient NaN.
        unit = fixed_point.unit(grad.abs().amax() + 0 * u.sum(), u[0, 0].numel())
        sums = torch.zeros(u.shape, dtype=torch.int64, device=device)
        cuda.run("warp_grad_image_fixed_float32", grad, u, unit, sums, *geometry, device=device)
        scattered = (sums * unit).float()
    else:
        cuda.run("integrate_clear", largest, scattered, *sizes, device=device)
        cuda.run("warp_grad_image_float32", grad, u, scattered, *geometry, largest, device=device)
    out = torch.empty_like(u)
    cuda.run("integrate_step_backward", grad, u, largest, scale, scattered, out, *sizes, device=device)
    return out
