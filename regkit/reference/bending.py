"""Mean squared second differences in plain torch: one pair of axes after the other, the gradient by the adjoint of the differences."""

import torch

from regkit.reference.warp import working_dtype


def _adjoint_of_diff(x: torch.Tensor, axis: int) -> torch.Tensor:
    """The transpose of torch.diff along an axis: one longer than x."""
    zero = x.new_zeros((*x.shape[:axis], 1, *x.shape[axis + 1 :]))
    return -torch.cat((zero, x, zero), axis).diff(dim=axis)


def bending_energy(u: torch.Tensor, spacing: list[float], need_gradient: bool):
    x = u.to(working_dtype(u))
    energy, gradient = x.new_zeros((), dtype=torch.float64), torch.zeros_like(x)
    for d in range(len(spacing)):
        for e in range(d, len(spacing)):
            bend = x.diff(dim=d + 2) if x.shape[d + 2] else x
            bend = bend.diff(dim=e + 2) if bend.shape[e + 2] else bend
            if bend.numel() == 0:
                continue
            weight = (1 if d == e else 2) / (spacing[d] * spacing[e]) ** 2
            energy = energy + weight * bend.double().square().mean()
            gradient += 2 * weight / bend.numel() * _adjoint_of_diff(_adjoint_of_diff(bend, e + 2), d + 2)
    if x.numel() == 0:
        energy = energy * float("nan")
    return energy.to(x.dtype), gradient if need_gradient else x.new_empty(0)
