"""Linear and nearest sampling along one axis: the Triton form of csrc/core/warp.h. Paddings are 0 zeros, 1 border, 2 extent."""

import triton
import triton.language as tl

ZEROS, BORDER, EXTENT = (tl.constexpr(padding) for padding in range(3))


@triton.jit
def axis_sample(c, n, PADDING: tl.constexpr):
    """Coordinate c on an axis of n cells -> low, high: valid indices; weight_low, weight_high; slope_low, slope_high (d weight / dc)."""
    last = tl.cast(n - 1, c.dtype)
    known = c == c
    if PADDING == ZEROS:
        # Clamping to one cell beyond the image keeps the conversion to int defined for huge coordinates; there all weights are 0 anyway.
        x = tl.where(known, tl.minimum(tl.maximum(c, -2.0), last + 2), 0.0)
        base = tl.floor(x)
        f = x - base
        has_low = (base >= 0) & (base <= last)
        has_high = (base >= -1) & (base < last)
        weight_low, weight_high = tl.where(has_low, 1 - f, 0.0), tl.where(has_high, f, 0.0)
        slope_low, slope_high = tl.where(has_low, -1.0, 0.0), tl.where(has_high, 1.0, 0.0)
        low = tl.minimum(tl.maximum(base, 0.0), last).to(tl.int32)
        high = tl.minimum(tl.maximum(base + 1, 0.0), last).to(tl.int32)
    else:
        x = tl.where(known, tl.minimum(tl.maximum(c, 0.0), last), 0.0)
        base = tl.floor(x)
        f = x - base
        moves = (c >= 0) & (c <= last) & (n > 1)
        weight_low, weight_high = 1 - f, f
        if PADDING == EXTENT:
            covered = (c >= -0.5) & (c <= last + 0.5)
            weight_low, weight_high = tl.where(covered, weight_low, 0.0), tl.where(covered, weight_high, 0.0)
        slope_low, slope_high = tl.where(moves, -1.0, 0.0), tl.where(moves, 1.0, 0.0)
        low = base.to(tl.int32)
        high = tl.minimum(base + 1, last).to(tl.int32)
    weight_low = tl.where(known, weight_low, c)  # NaN in, NaN out
    slope_low = tl.where(known, slope_low, c)
    return low, high, weight_low.to(c.dtype), weight_high.to(c.dtype), slope_low.to(c.dtype), slope_high.to(c.dtype)


@triton.jit
def axis_nearest(c, n, PADDING: tl.constexpr):
    """Index of the nearest cell (halves round up), and whether it is in the image; where it is not, the index is valid all the same."""
    last = tl.cast(n - 1, c.dtype)
    x = tl.floor(c + 0.5)
    known = x == x
    index = tl.where(known, tl.minimum(tl.maximum(x, 0.0), last), 0.0).to(tl.int32)
    if PADDING == BORDER:
        inside = index >= 0
    else:
        inside = (x >= 0) & (x <= last)
    return index, inside
