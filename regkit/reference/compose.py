"""(u o v)(x) = v(x) + u(x + v(x)) in plain torch: a warp of u by v, and v."""

import torch

from regkit.reference.warp import BORDER, warp, warp_backward, working_dtype


def compose(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    dtype = working_dtype(u, v)
    return (v.to(dtype) + warp(u.to(dtype), v, BORDER, 0.0)).to(torch.promote_types(u.dtype, v.dtype))


def compose_backward(grad, u, v, need_u: bool, need_v: bool):
    dtype = working_dtype(u, v)
    grad_u, grad_v = warp_backward(grad.to(dtype), u.to(dtype), v.to(dtype), BORDER, 0.0, need_u, need_v)
    return grad_u.to(u.dtype), (grad_v + grad.to(dtype) if need_v else grad_v).to(v.dtype)
