"""(u o v)(x) = v(x) + u(x + v(x)) in Triton: the warp kernels with their option to add the displacement."""

import torch

from regkit.kernels.sampling import BORDER
from regkit.kernels.warp import grad_displacement, grad_image, sample

PADDING = BORDER.value


def compose(u, v):
    out = torch.empty(v.shape, dtype=torch.promote_types(u.dtype, v.dtype), device=v.device)
    sample(u.contiguous(), v.contiguous(), out, PADDING, 0.0, compose=True)
    return out


def compose_backward(grad, u, v, need_u, need_v):
    g, at = grad.contiguous(), v.contiguous()
    by_u, by_v = u.new_empty(0), v.new_empty(0)
    if need_u:
        by_u = grad_image(g, at, u, PADDING)
    if need_v:
        by_v = torch.empty_like(at)
        grad_displacement(g, u.contiguous(), at, by_v, PADDING, 0.0, compose=True)
    return by_u, by_v
