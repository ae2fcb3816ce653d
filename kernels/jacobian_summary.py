"""Figures of det(I + grad u) without its map, in Triton: folds, extremes, mean, spread of log J.

Bytes a voxel (3-D, float32): 12 read, 1 more with a mask. A program reduces 8 x 32 voxels to twelve numbers: counts, extremes, sums, and of
the logarithms mean and squared deviation, so that no sum of squares loses a small spread around a large mean (core/moments.h). torch merges
the programs' numbers in float64, some kilobytes: the same bits in every run, and nothing waits for the host.
"""

import torch
import triton
import triton.language as tl

from regkit.kernels import launch, tiles
from regkit.kernels.jacobian import determinant

OUTER = 2  # voxels on each side that Learn2Reg leaves out
NUMBERS = 12


@triton.jit
def _moments(values, weight, out):
    """Stores count, mean and squared deviation of the values of weight 1; the others are 0 and finite."""
    count = tl.sum(weight)
    mean = tl.sum(values * weight) / tl.maximum(count, 1)
    difference = (values - mean) * weight
    tl.store(out, count)
    tl.store(out + 1, mean)
    tl.store(out + 2, tl.sum(difference * difference))


@triton.jit
def _summary(u, mask, numbers, ni, nj, nk, D: tl.constexpr, MASKED: tl.constexpr, OUTER: tl.constexpr, NUMBERS: tl.constexpr,
             WORK: tl.constexpr, OFFSET: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    voxels = tl.cast(ni, OFFSET) * nj * nk
    at = (tl.cast(i, OFFSET) * nj + j) * nk + k
    value = determinant(u + tl.cast(b, OFFSET) * D * voxels + at, i, j, k, ni, nj, nk, voxels, inside, D, WORK)
    chosen = inside
    if MASKED:
        chosen = inside & (tl.load(mask + tl.cast(b, OFFSET) * voxels + at, mask=inside, other=0) != 0)
    inner = chosen & (j >= OUTER) & (j < nj - OUTER) & (k >= OUTER) & (k < nk - OUTER)
    if D == 3:
        row_i = i + 0 * j
        inner = inner & (row_i >= OUTER) & (row_i < ni - OUTER)
    valid = chosen & (value == value)
    out = numbers + tl.program_id(0) * NUMBERS
    tl.store(out, tl.sum(tl.where(chosen, 1.0, 0.0)))
    tl.store(out + 1, tl.sum(tl.where(chosen & (value <= 0), 1.0, 0.0)))
    tl.store(out + 2, tl.sum(tl.where(chosen, value, 0.0)))
    tl.store(out + 3, tl.min(tl.min(tl.where(valid, value, float("inf")), 1), 0))
    tl.store(out + 4, tl.max(tl.max(tl.where(valid, value, float("-inf")), 1), 0))
    tl.store(out + 5, tl.sum(tl.where(chosen & (value != value), 1.0, 0.0)))
    positive = valid & (value > 0)
    logs = tl.where(positive, tl.log(tl.where(positive, tl.maximum(value, 1e-9), 1.0)), 0.0)
    _moments(logs, tl.where(positive, 1.0, 0.0).to(WORK), out + 6)
    shifted = tl.where(inner, value + 3, 1.0)
    shifted = tl.where(shifted != shifted, shifted, tl.minimum(tl.maximum(shifted, 1e-9), 1e9))
    _moments(tl.log(shifted), tl.where(inner, 1.0, 0.0).to(WORK), out + 9)


def _deviation(count: torch.Tensor, mean: torch.Tensor, m2: torch.Tensor) -> torch.Tensor:
    """Of all numbers, from the (B, programs) counts, means and squared deviations of the parts. NaN where there are none."""
    total = count.sum(1)
    whole = (count * mean).sum(1) / total
    return ((m2.sum(1) + (count * (mean - whole[:, None]).square()).sum(1)) / total).sqrt()


def jacobian_summary(u, mask):
    if u.numel() == 0:
        return u.new_full((u.shape[0], 6), float("nan"), dtype=torch.float64)
    x, spatial = u.contiguous(), launch.sizes(u.shape[2:])
    chosen = x if mask is None else (mask != 0).view(torch.uint8).contiguous()
    programs = tiles.count(u.shape[0], spatial)
    numbers = x.new_empty((programs, NUMBERS), dtype=launch.work_dtype(u))
    launch.run(
        _summary, programs, x, chosen, numbers, *spatial, D=u.shape[1], MASKED=mask is not None, OUTER=OUTER, NUMBERS=NUMBERS,
        WORK=launch.work_type(u), OFFSET=launch.offset_type(u), BLOCK_J=tiles.BLOCK_J, BLOCK_K=tiles.BLOCK_K,
    )  # fmt: skip
    count, folds, total, least, most, invalid, *logs = numbers.double().view(u.shape[0], -1, NUMBERS).unbind(2)
    whole = count.sum(1)
    nothing = (whole == 0) | (invalid.sum(1) > 0)
    extremes = [torch.where(nothing, float("nan"), x) for x in (least.amin(1), most.amax(1))]
    return torch.stack([folds.sum(1) / whole, *extremes, total.sum(1) / whole, _deviation(*logs[:3]), _deviation(*logs[3:])], 1)
