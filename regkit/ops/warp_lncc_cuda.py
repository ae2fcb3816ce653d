"""lncc(fixed, warp(moving, displacement)) and its gradient by the displacement, by the kernels of csrc/cuda, batch item by batch item.

The warped image of an item and the gradient by it lie in memory while the op runs. Bytes a voxel in 3-D with one channel of float32: 20 for
the warp, 44 for the two sweeps of local NCC, 32 for the gradient by the displacement: 96.
"""

import torch

from regkit.ops import cuda, lncc_cuda, native


def serves(fixed, moving, displacement, window: int) -> bool:
    """Whether these kernels can do it: other windows, float64 and tensors of several dtypes are Triton's."""
    return lncc_cuda.serves(fixed, moving, window) and fixed.dtype == displacement.dtype == torch.float32


def _sweep(fixed, moving, displacement, weight, window, padding, fill, eps, scale, gradient) -> torch.Tensor:
    """Partial sums of weight * ncc; fills the gradient, times `scale`, if it is given."""
    partials = [fixed.new_zeros(1)]
    for b in range(fixed.shape[0]):
        f, m, u = (x[b : b + 1].contiguous() for x in (fixed, moving, displacement))
        geometry = u.shape[1], 1, m.shape[1], native.sizes(m.shape[2:]), native.sizes(u.shape[2:])
        warped = torch.empty_like(f)
        cuda.run("warp_float32", m, u, warped, *geometry, padding, fill, device=u.device)
        by_warped = None if gradient is None else torch.empty_like(warped)
        w = None if weight is None else weight[b]
        partials.append(lncc_cuda.sweep(f, warped, window=window, eps=eps, weight=w, per_weight=f.shape[1], scale=scale, grad_b=by_warped))
        if gradient is not None:
            into = gradient[b : b + 1]
            cuda.run("warp_grad_displacement_float32", by_warped, m, u, into, *geometry, padding, fill, device=u.device)
    return torch.cat(partials)


def warp_lncc(fixed, moving, displacement, weight, window, padding, fill, eps, need_gradient):
    gradient = displacement.new_empty(displacement.shape if need_gradient else 0)
    w, count, scale = lncc_cuda.mean_over(fixed, weight)
    into = gradient if need_gradient else None
    partials = _sweep(fixed, moving, displacement, w, window, padding, fill, eps, scale, into)
    return (partials.sum(dtype=torch.float64) / count).float(), gradient


def warp_lncc_backward(grad, fixed, moving, displacement, weight, window, padding, fill, eps):
    gradient = torch.empty(displacement.shape, dtype=displacement.dtype, device=displacement.device)
    w, _, scale = lncc_cuda.mean_over(fixed, weight)
    _sweep(fixed, moving, displacement, w, window, padding, fill, eps, scale * grad.float(), gradient)
    return gradient
