"""lncc(fixed, warp(moving, displacement)) and its gradient by the displacement, by the kernels of csrc/cuda, some batch items at a time.

The warped image of these items lies in memory while the op runs. Bytes a voxel in 3-D with one channel of float32: 20 for the warp, 20 for
the first sweep of local NCC, 48 for the second, which samples the moving image's slopes and writes the gradient by the displacement: 88. Of
several channels, which share a displacement, the blocks could not write one gradient: there the gradient by the warped image lies in memory
too, and a kernel of its own makes that by the displacement of it: 44 + 32 in place of 20 + 48.
"""

import torch

from regkit.kernels.mean import mean_over
from regkit.ops import cuda, lncc_cuda, native


def serves(fixed, moving, displacement, window: int) -> bool:
    """Whether these kernels can do it: other windows, float64 and tensors of several dtypes are Triton's."""
    return lncc_cuda.serves(fixed, moving, window) and fixed.dtype == displacement.dtype == torch.float32


def _sweep(fixed, moving, displacement, weight, window, padding, fill, eps, scale, gradient) -> torch.Tensor:
    """Partial sums of weight * ncc; fills the gradient, times `scale`, if it is given."""
    partials = [fixed.new_zeros(1)]
    items = max(1, lncc_cuda.GROUP // max(1, fixed[:1].numel()))
    for first in range(0, fixed.shape[0], items):
        part = slice(first, first + items)
        f, m, u = (x[part].contiguous() for x in (fixed, moving, displacement))
        into = None if gradient is None else gradient[part]
        geometry = u.shape[1], *m.shape[:2], native.sizes(m.shape[2:]), native.sizes(u.shape[2:])
        warped = torch.empty_like(f)
        cuda.run("warp_float32", m, u, warped, *geometry, padding, fill, device=u.device)
        options = dict(window=window, eps=eps, weight=None if weight is None else weight[part], per_weight=f.shape[1], scale=scale)
        if into is None:
            partials.append(lncc_cuda.sweep(warped, f, **options))
        elif f.shape[1] == 1:
            partials.append(lncc_cuda.sweep(warped, f, warp=lncc_cuda.Warp(m, u, into, padding, fill), **options))
        else:
            by_warped = torch.empty_like(warped)
            partials.append(lncc_cuda.sweep(warped, f, grad_a=by_warped, **options))
            cuda.run("warp_grad_displacement_float32", by_warped, m, u, into, *geometry, padding, fill, device=u.device)
    return torch.cat(partials)


def warp_lncc(fixed, moving, displacement, weight, window, padding, fill, eps, need_gradient):
    gradient = displacement.new_empty(displacement.shape if need_gradient else 0)
    w, divisor, scale = mean_over(fixed, weight, torch.float32)
    into = gradient if need_gradient else None
    partials = _sweep(fixed, moving, displacement, w, window, padding, fill, eps, scale, into)
    return (partials.sum(dtype=torch.float64) / divisor).float(), gradient


def warp_lncc_backward(grad, fixed, moving, displacement, weight, window, padding, fill, eps):
    gradient = torch.empty(displacement.shape, dtype=displacement.dtype, device=displacement.device)
    w, _, scale = mean_over(fixed, weight, torch.float32)
    _sweep(fixed, moving, displacement, w, window, padding, fill, eps, scale * grad.float(), gradient)
    return gradient
