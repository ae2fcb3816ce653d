"""Scaling and squaring in plain torch: u_0 = v / 2^steps, u_{k+1} = u_k o u_k."""

import torch

from regkit.reference.compose import compose, compose_backward
from regkit.reference.warp import working_dtype


def _fields(velocity: torch.Tensor, steps: int) -> list[torch.Tensor]:
    """u_0 .. u_steps in the working dtype."""
    fields = [velocity.to(working_dtype(velocity)) * 0.5**steps]
    for _ in range(steps):
        fields.append(compose(fields[-1], fields[-1]))
    return fields


def saved_format(u: torch.Tensor) -> torch.memory_format:
    """How the fields u_k that are kept lie in memory: on the CPU component by component within a voxel, elsewhere volume by volume."""
    if u.device.type != "cpu":
        return torch.contiguous_format
    return torch.channels_last_3d if u.dim() == 5 else torch.channels_last


def integrate_velocity(velocity: torch.Tensor, steps: int, save_steps: bool) -> tuple[torch.Tensor, torch.Tensor]:
    fields = _fields(velocity, steps)
    saved = fields[-1].new_empty(0)
    if save_steps:
        saved = torch.cat([saved.new_empty((0, *velocity.shape[1:])), *fields[:-1]]).contiguous(memory_format=saved_format(velocity))
    return fields[-1].to(velocity.dtype).clone(memory_format=torch.contiguous_format), saved


def integrate_velocity_backward(grad: torch.Tensor, velocity: torch.Tensor, saved: torch.Tensor, steps: int) -> torch.Tensor:
    g = grad.to(working_dtype(grad))
    fields = saved.reshape(steps, *grad.shape).unbind() if saved.dim() > 1 else _fields(velocity, steps)[:-1]
    for u in reversed(fields):
        g = sum(compose_backward(g, u, u, True, True))
    return (g * 0.5**steps).to(grad.dtype).contiguous()
