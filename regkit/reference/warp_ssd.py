"""Mean of (warp(moving, displacement) - fixed)^2 and its derivative by the displacement, in plain torch: the two ops, one after the other.

The warped image is not rounded to the images' dtype in between.
"""

from regkit.reference.warp import warp, warp_backward, working_dtype


def warp_ssd(fixed, moving, displacement, weight, padding: int, fill: float, need_gradient: bool):
    dtype = working_dtype(fixed, moving, displacement)
    f, m, u = fixed.to(dtype), moving.to(dtype), displacement.to(dtype)
    w = f.new_ones(f.shape[0], 1, *f.shape[2:]) if weight is None else weight.to(dtype)
    difference, count = warp(m, u, padding, fill) - f, w.sum() * f.shape[1]
    value = (w * difference.square()).sum() / count
    if not need_gradient:
        return value, u.new_empty(0)
    grad = (2 * w * difference / count).where(count != 0, 0.0)  # nothing to average: NaN, as torch's mean, and no gradient
    return value, warp_backward(grad, m, u, padding, fill, False, True)[1]
