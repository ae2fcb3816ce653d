"""What the stencil kernels share: neighbours that may not exist, differences, and floats in full precision.

Triton passes Python floats as float32. Arguments annotated with tl.float64 come as float64, and `number` casts them to the type that the
kernel works in, so that float64 tensors are computed in float64 throughout.
"""

import triton
import triton.language as tl


@triton.jit
def number(x, WORK: tl.constexpr):
    """A tl.float64 argument in the working type, (1, 1). (In the interpreter it is a Python float, which tl.cast would round to
    float32.)"""
    return (tl.full((1, 1), 0.0, tl.float64) + x).to(WORK)


@triton.jit
def at_or(pointer, exists, otherwise, WORK: tl.constexpr):
    """The values at `pointer` where they exist, else `otherwise`."""
    return tl.where(exists, tl.load(pointer, mask=exists, other=0.0).to(WORK), otherwise)


@triton.jit
def second_difference(low, centre, high):
    return (low - centre) + (high - centre)


@triton.jit
def twist(v00, v01, v10, v11):
    """The mixed difference over a cell, its voxels named by their steps along the two axes."""
    return (v11 - v10) - (v01 - v00)


@triton.jit
def around(x, n, WORK: tl.constexpr):
    """Steps to the two neighbours of index x that exist, and 1 / their distance: 1/2 inside, 1 at the border, 0 on an axis of one voxel."""
    low, high = tl.maximum(x - 1, 0) - x, tl.minimum(x + 1, n - 1) - x
    return low, high, tl.where(high - low == 2, 0.5, tl.where(high > low, 1.0, 0.0)).to(WORK)
