"""Squared local NCC in plain torch: five zero-padded box sums, then one line.

The images are taken to float64 first: `E[x^2] - E[x]^2` of a bright image is all rounding in float32.
(The kernels subtract a shift instead.)
"""

import torch
import torch.nn.functional as F

from regkit.reference.warp import working_dtype


def box_sum(x: torch.Tensor, window: int) -> torch.Tensor:
    """Sum over the window around each voxel, zeros outside; (B, C, *spatial)."""
    for axis in range(2, x.dim()):
        padding = [0, 0] * (x.dim() - 1 - axis) + [window // 2, window // 2]
        x = F.pad(x, padding).unfold(axis, window, 1).sum(-1)
    return x


def _windows(a: torch.Tensor, b: torch.Tensor, window: int, eps: float):
    """Per window: sums of a and b, cross term c, 1 / variance of a and of b."""
    n = window ** (a.dim() - 2)
    sa, sb, saa, sbb, sab = (box_sum(x, window) for x in (a, b, a * a, b * b, a * b))
    inverse_a, inverse_b = 1 / ((saa - sa * sa / n).clamp_min(0) + eps), 1 / ((sbb - sb * sb / n).clamp_min(0) + eps)
    return sa, sb, sab - sa * sb / n, inverse_a, inverse_b


def lncc_map(a, b, window: int, eps: float) -> torch.Tensor:
    _, _, cross, inverse_a, inverse_b = _windows(a.double(), b.double(), window, eps)
    return (cross * cross * inverse_a * inverse_b).to(a.dtype)


def lncc_map_backward(grad, a, b, window: int, eps: float, need_a: bool, need_b: bool):
    """d sum(grad * ncc) / da = box(A) + 2 a box(B) + b box(C), see csrc/core/lncc.h; by b with a and b exchanged."""
    x, y, n = a.double(), b.double(), window ** (a.dim() - 2)
    sx, sy, cross, inverse_x, inverse_y = _windows(x, y, window, eps)
    C = grad.double() * 2 * cross * inverse_x * inverse_y

    def gradient(x, y, sx, sy, inverse):
        B = -0.5 * C * cross * inverse
        A = -(C * sy + 2 * B * sx) / n
        return box_sum(A, window) + 2 * x * box_sum(B, window) + y * box_sum(C, window)

    return (
        gradient(x, y, sx, sy, inverse_x).to(a.dtype) if need_a else a.new_empty(0),
        gradient(y, x, sy, sx, inverse_y).to(b.dtype) if need_b else b.new_empty(0),
    )


def lncc(a, b, weight, window: int, eps: float, need_a: bool, need_b: bool):
    """The weighted mean of the map (weight (B, 1, *spatial) or None) and its gradients; weights that sum to 0: NaN, gradients 0."""
    w = (torch.ones_like(a[:, :1], dtype=torch.float64) if weight is None else weight.double()).expand(a.shape)
    x, y, dtype, count = a.double(), b.double(), working_dtype(a, b), w.sum()
    value = (w * lncc_map(x, y, window, eps)).sum() / count
    scale = torch.where(count == 0, 0.0, 1 / count)
    return value.to(dtype), *(g.to(dtype) for g in lncc_map_backward(w * scale, x, y, window, eps, need_a, need_b))
