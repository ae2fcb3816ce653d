"""lncc(fixed, warp(moving, displacement)) and its derivative by the displacement, in plain torch: the two ops, one after the other.

The warped image is not rounded to the images' dtype in between.
"""

from regkit.reference.lncc import lncc
from regkit.reference.warp import warp, warp_backward, working_dtype


def warp_lncc(fixed, moving, displacement, weight, window: int, padding: int, fill: float, eps: float, need_gradient: bool):
    dtype = working_dtype(fixed, moving, displacement)
    f, m, u = fixed.to(dtype), moving.to(dtype), displacement.to(dtype)
    value, _, grad = lncc(f, warp(m, u, padding, fill), weight, window, eps, False, need_gradient)
    if not need_gradient:
        return value, u.new_empty(0)
    return value, warp_backward(grad, m, u, padding, fill, False, True)[1]


def warp_lncc_backward(grad, fixed, moving, displacement, weight, window: int, padding: int, fill: float, eps: float):
    gradient = warp_lncc(fixed, moving, displacement, weight, window, padding, fill, eps, True)[1]
    return (grad * gradient).to(displacement.dtype)
