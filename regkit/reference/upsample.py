"""Linear resampling from coarse knots in plain torch: one axis after the other; the adjoint adds back along the same indices."""

import torch

from regkit.reference.warp import working_dtype


def _taps(fine: int, coarse: int, factor: float, offset: float, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per fine index along an axis: the two knots it reads, and the weight of the second."""
    c = ((torch.arange(fine, dtype=torch.float64, device=like.device) - offset) / factor).clamp(0, coarse - 1)
    low = c.floor()
    return low.long(), (low.long() + 1).clamp_max(coarse - 1), (c - low).to(like.dtype)


def _column(weight: torch.Tensor, axis: int, dims: int) -> torch.Tensor:
    return weight.reshape(-1, *[1] * (dims - 1 - axis))


def upsample(u, size, factor, offset, scale):
    x = u.to(working_dtype(u))
    x = x * _column(x.new_tensor(scale), 1, x.dim())
    for axis, (fine, f, o) in enumerate(zip(size, factor, offset), start=2):
        low, high, weight = _taps(fine, x.shape[axis], f, o, x)
        a, b = x.index_select(axis, low), x.index_select(axis, high)
        x = a + _column(weight, axis, x.dim()) * (b - a)
    return x.to(u.dtype)


def upsample_backward(grad, size, factor, offset, scale):
    g = grad.to(working_dtype(grad))
    for axis, (coarse, f, o) in enumerate(zip(size, factor, offset), start=2):
        low, high, weight = _taps(g.shape[axis], coarse, f, o, g)
        weight = _column(weight, axis, g.dim())
        out = g.new_zeros((*g.shape[:axis], coarse, *g.shape[axis + 1 :]))
        g = out.index_add(axis, low, (1 - weight) * g).index_add(axis, high, weight * g)
    return (g * _column(g.new_tensor(scale), 1, g.dim())).to(grad.dtype)
