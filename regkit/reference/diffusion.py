"""Mean squared forward differences in plain torch: one axis after the other."""

import torch

from regkit.reference.warp import working_dtype


def diffusion_energy(u: torch.Tensor, spacing: list[float], need_gradient: bool):
    x = u.to(working_dtype(u))
    energy, gradient = x.new_zeros((), dtype=torch.float64), torch.zeros_like(x)
    for axis, (n, step) in enumerate(zip(u.shape[2:], spacing), start=2):
        if n == 1:
            continue
        difference = x.diff(dim=axis)
        scale = 1 / (len(spacing) * step**2)
        energy = energy + scale * difference.double().square().mean()
        if difference.numel():
            slope = 2 * scale / difference.numel() * difference
            gradient.narrow(axis, 1, n - 1).add_(slope)
            gradient.narrow(axis, 0, n - 1).sub_(slope)
    if x.numel() == 0:
        energy = energy * float("nan")
    return energy.to(x.dtype), gradient if need_gradient else x.new_empty(0)
