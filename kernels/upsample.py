"""Linear resampling from coarse knots and its adjoint, in Triton. Formulas: csrc/core/upsample.h.

Bytes a fine value (float32): forward 4 written; the coarse field is small beside it and comes from L1 and L2. A program makes 8 x 32 voxels
of a fine plane from their eight knots. Knots and fractions are computed in float64, as the CPU does, so that a position on a knot reads
that knot; they are needed for 8 rows and 32 columns, not for every voxel.

The adjoint gathers along one axis after the other, k first, so that a fine value is read once and what the later axes read is a fraction of
it: 4 read a fine value, and about 4 (1 + 1/f) / f more for a factor f along k. A coarse value sums over the fine ones that read it, in
order: no atomics, the same bits in every run. Which they are is found by the forward's own rule, so that it is the exact adjoint.
"""

import math

import torch
import triton
import triton.language as tl

from regkit.kernels import launch, tiles
from regkit.kernels.neighbours import number


@triton.jit
def _tap(x, coarse, last, factor, offset, WORK: tl.constexpr):
    """The two knots that fine index x reads along an axis, and the weight of the second. last = coarse - 1, factor, offset in float64."""
    position = tl.minimum(tl.maximum((x.to(tl.float64) - offset) / factor, 0.0), last)
    low = tl.floor(position)
    knot = low.to(tl.int32)
    return knot, tl.minimum(knot + 1, coarse - 1), (position - low).to(WORK)


@triton.jit
def _taps_of(x, coarse, factor, offset, WORK: tl.constexpr):
    return _tap(x, coarse, number(coarse - 1, tl.float64), number(factor, tl.float64), number(offset, tl.float64), WORK)


@triton.jit
def _rows(u, low, high, k_low, k_high, along_j, along_k, inside, WORK: tl.constexpr):
    """A plane of knots, blended along k and j. Offsets of two rows and two columns."""
    a = tl.load(u + low + k_low, mask=inside, other=0.0).to(WORK)
    a += along_k * (tl.load(u + low + k_high, mask=inside, other=0.0).to(WORK) - a)
    b = tl.load(u + high + k_low, mask=inside, other=0.0).to(WORK)
    b += along_k * (tl.load(u + high + k_high, mask=inside, other=0.0).to(WORK) - b)
    return a + along_j * (b - a)


@triton.jit
def _forward(u, out, scale, channels, ci, cj, ck, ni, nj, nk, factor_i: tl.float64, factor_j: tl.float64, factor_k: tl.float64,
             offset_i: tl.float64, offset_j: tl.float64, offset_k: tl.float64, D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr,
             BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    volume, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    j_low, j_high, along_j = _taps_of(j, cj, factor_j, offset_j, WORK)
    k_low, k_high, along_k = _taps_of(k, ck, factor_k, offset_k, WORK)
    plane = tl.cast(cj, OFFSET) * ck
    knots = u + tl.cast(volume, OFFSET) * ci * plane
    low, high = j_low * ck, j_high * ck
    if D == 3:
        i_low, i_high, along_i = _taps_of(i + 0 * j, ci, factor_i, offset_i, WORK)
        value = _rows(knots + i_low * plane, low, high, k_low, k_high, along_j, along_k, inside, WORK)
        value += along_i * (_rows(knots + i_high * plane, low, high, k_low, k_high, along_j, along_k, inside, WORK) - value)
    else:
        value = _rows(knots, low, high, k_low, k_high, along_j, along_k, inside, WORK)
    value *= tl.load(scale + volume % channels)
    at = (tl.cast(volume, OFFSET) * ni + i) * nj * nk + tl.cast(j, OFFSET) * nk + k
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _adjoint(grad, out, scale, channels, fine, taps, ni, nj, nk, factor: tl.float64, offset: tl.float64, ALONG_K: tl.constexpr,
             SCALED: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """One axis: along k, rows of `fine` values to rows of nk; else (volumes, fine, inner) to (volumes, nj, nk), nk being inner."""
    volume, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    at = (tl.cast(volume, OFFSET) * nj + j) * nk + k
    if ALONG_K:
        c, coarse, step = k, nk, 1
        source = grad + tl.cast(j, OFFSET) * fine
    else:
        c, coarse, step = j, nj, nk
        source = grad + tl.cast(volume, OFFSET) * fine * nk + k
    step_f, offset_f, last = number(factor, tl.float64), number(offset, tl.float64), number(coarse - 1, tl.float64)
    # The first fine index that may read knot c, and one before it, for the forward's rule decides.
    first = tl.floor((c - 1).to(tl.float64) * step_f + offset_f).to(tl.int32) - 1
    first = tl.where(c == 0, 0, tl.maximum(first, 0))
    total = tl.zeros((BLOCK_J, BLOCK_K), WORK)
    for t in range(taps):
        x = first + t
        low, high, fraction = _tap(x, coarse, last, step_f, offset_f, WORK)
        weight = tl.where(low == c, 1 - fraction, 0.0) + tl.where(high == c, fraction, 0.0)
        total += weight * tl.load(source + x * step, mask=inside & (x < fine), other=0.0).to(WORK)
    if SCALED:
        total *= tl.load(scale + volume % channels)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


def _scales(scale, like: torch.Tensor) -> torch.Tensor:
    """One number a channel, in the working type; written by kernels, for a copy from the host cannot be captured in a graph."""
    out = torch.full((len(scale),), scale[0] if scale else 1.0, dtype=launch.work_dtype(like), device=like.device)
    for c, value in enumerate(scale):
        if value != scale[0]:
            out[c].fill_(value)
    return out


def upsample(u, size, factor, offset, scale):
    out, spatial = u.new_empty((*u.shape[:2], *size)), launch.sizes(size)
    launch.run(
        _forward, tiles.count(u.shape[0] * u.shape[1], spatial), u.contiguous(), out, _scales(scale, u), u.shape[1],
        *launch.sizes(u.shape[2:]), *spatial, *launch.sizes(factor, 1.0), *launch.sizes(offset, 0.0),
        D=u.dim() - 2, WORK=launch.work_type(u), OFFSET=launch.offset_type(u, out), BLOCK_J=tiles.BLOCK_J, BLOCK_K=tiles.BLOCK_K,
    )  # fmt: skip
    return out


def _most_taps(coarse: int, fine: int, factor: float, offset: float) -> int:
    """At least as many as fine indices can read one knot, counted from where the kernel starts. The outer knots have all that lies beyond
    them."""
    before, beyond = math.ceil(offset + factor), fine - math.floor(offset + (coarse - 2) * factor)
    return max(0, min(fine, max(math.ceil(2 * factor), before, beyond) + 3)) if coarse > 1 else fine


def upsample_backward(grad, size, factor, offset, scale):
    volumes, dims, work = grad.shape[0] * grad.shape[1], len(size), launch.work_dtype(grad)
    scales, g = _scales(scale, grad), grad.contiguous()
    for axis in reversed(range(dims)):
        coarse, fine, inner = size[axis], grad.shape[2 + axis], math.prod(size[axis + 1 :])
        outer = volumes * math.prod(grad.shape[2 : 2 + axis])
        last = axis == 0
        out = grad.new_empty((*grad.shape[: 2 + axis], *size[axis:]), dtype=grad.dtype if last else work)
        along_k = axis == dims - 1
        shape = (1, 1, outer, coarse) if along_k else (outer, 1, coarse, inner)
        launch.run(
            _adjoint, tiles.count(shape[0], shape[1:]), g, out, scales, grad.shape[1], fine,
            _most_taps(coarse, fine, factor[axis], offset[axis]), *shape[1:], factor[axis], offset[axis],
            ALONG_K=along_k, SCALED=last, WORK=launch.work_type(grad), OFFSET=launch.offset_type(g, out),
            BLOCK_J=tiles.BLOCK_J, BLOCK_K=tiles.BLOCK_K,
        )  # fmt: skip
        g = out
    return g
