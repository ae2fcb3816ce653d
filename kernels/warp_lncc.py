"""lncc(fixed, warp(moving, displacement)) and its gradient by the displacement, in Triton.

The windows need each warped value many times, and Triton cannot keep planes of them on the chip. So the warped image of one batch item lies
in memory while the op runs, as does the gradient by it; both are gone when it returns, and nothing of them is saved for backward. (CUDA C++
can do all of it in one kernel.) Bytes a voxel in 3-D with one channel of float32: 20 for the warp, 84 for lncc.py's kernels, 32 for the
gradient by the displacement: 136 together, 219 us at 160 x 192 x 224 and 4.3 TB/s.
"""

import torch

from regkit.kernels import launch, lncc, warp
from regkit.kernels.mean import mean_over


def _sweep(fixed, moving, displacement, weight, window, padding, fill, eps, scale, gradient) -> torch.Tensor:
    """Partial sums of weight * ncc, batch item by batch item; fills the gradient, times `scale`, if it is given."""
    partials = []
    for b in range(fixed.shape[0]):
        f, m, u = (x[b : b + 1].contiguous() for x in (fixed, moving, displacement))
        warped = f.new_empty(f.shape, dtype=launch.work_dtype(fixed, moving, displacement))
        warp.sample(m, u, warped, padding, fill)
        by_warped = None if gradient is None else torch.empty_like(warped)
        partials.append(
            lncc.sweep(
                f,
                warped,
                window=window,
                eps=eps,
                weight=None if weight is None else weight[b],
                per_weight=f.shape[1],
                scale=scale,
                grad_b=by_warped,
            )  # fmt: skip
        )
        if gradient is not None:
            warp.grad_displacement(by_warped, m, u, gradient[b : b + 1], padding, fill)
    return torch.cat(partials) if partials else fixed.new_zeros(1, dtype=launch.work_dtype(fixed, moving, displacement))


def warp_lncc(fixed, moving, displacement, weight, window, padding, fill, eps, need_gradient):
    dtype = launch.work_dtype(fixed, moving, displacement)
    gradient = displacement.new_empty(displacement.shape if need_gradient else 0, dtype=dtype)
    w, divisor, scale = mean_over(fixed, weight, dtype)
    partials = _sweep(fixed, moving, displacement, w, window, padding, fill, eps, scale, gradient if need_gradient else None)
    return (partials.sum(dtype=torch.float64) / divisor).to(dtype), gradient


def warp_lncc_backward(grad, fixed, moving, displacement, weight, window, padding, fill, eps):
    gradient = torch.empty(displacement.shape, dtype=displacement.dtype, device=displacement.device)
    w, _, scale = mean_over(fixed, weight, launch.work_dtype(fixed, moving, displacement))
    _sweep(fixed, moving, displacement, w, window, padding, fill, eps, scale * grad.to(scale.dtype), gradient)
    return gradient
