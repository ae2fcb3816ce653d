"""Sum of squares of fixed - warp(moving, displacement) and its gradient by the displacement, in Triton: one kernel.

Bytes a voxel in 3-D, C channels of s bytes: 24 + 2sC (displacement, fixed, moving, gradient). Tiles, positions and cells as in warp.py; a
program adds its squares into one number of a buffer, which torch sums in float64: the same bits in every run.
"""

import torch
import triton
import triton.language as tl

from regkit.kernels import launch, tiles
from regkit.kernels.mean import mean_over
from regkit.kernels.neighbours import number
from regkit.kernels.warp import _row, cells_around, displaced


@triton.jit
def _squares(fixed, moving, u, weight, scale, gradient, partials, channels, mi, mj, mk, ni, nj, nk, fill: tl.float64,
             D: tl.constexpr, PADDING: tl.constexpr, WEIGHTED: tl.constexpr, GRADIENT: tl.constexpr, WORK: tl.constexpr,
             OFFSET: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    fill = number(fill, WORK)
    ci, cj, ck, at = displaced(u, b, i, j, k, inside, ni, nj, nk, D, WORK, OFFSET)
    row_ll, row_lh, row_hl, row_hh, kl, kh, wil, wih, sil, sih, wjl, wjh, sjl, sjh, wkl, wkh, skl, skh = cells_around(
        ci, cj, ck, mi, mj, mk, PADDING, D, OFFSET
    )
    cells, voxels = tl.cast(mi, OFFSET) * mj * mk, tl.cast(ni, OFFSET) * nj * nk
    place = (tl.cast(i, OFFSET) * nj + j) * nk + k
    source = moving + tl.cast(b, OFFSET) * channels * cells
    own = fixed + tl.cast(b, OFFSET) * channels * voxels + place
    total, by_i, by_j, by_k = 0 * cj, 0 * cj, 0 * cj, 0 * cj
    for c in range(channels):
        low, high = _row(source, row_ll, kl, kh, inside, fill, WORK)
        along_ll, step_ll = wkl * low + wkh * high, skl * low + skh * high
        low, high = _row(source, row_lh, kl, kh, inside, fill, WORK)
        along_lh, step_lh = wkl * low + wkh * high, skl * low + skh * high
        value, slope_j, slope_k = wjl * along_ll + wjh * along_lh, sjl * along_ll + sjh * along_lh, wjl * step_ll + wjh * step_lh
        if D == 3:
            low, high = _row(source, row_hl, kl, kh, inside, fill, WORK)
            along_hl, step_hl = wkl * low + wkh * high, skl * low + skh * high
            low, high = _row(source, row_hh, kl, kh, inside, fill, WORK)
            along_hh, step_hh = wkl * low + wkh * high, skl * low + skh * high
            upper = wjl * along_hl + wjh * along_hh
            slope_i = sil * value + sih * upper
            value = wil * value + wih * upper
            slope_j = wil * slope_j + wih * (sjl * along_hl + sjh * along_hh)
            slope_k = wil * slope_k + wih * (wjl * step_hl + wjh * step_hh)
        difference = value + fill - tl.load(own, mask=inside, other=0.0).to(WORK)
        total += difference * difference
        if GRADIENT:
            if D == 3:
                by_i += difference * slope_i
            by_j += difference * slope_j
            by_k += difference * slope_k
        source += cells
        own += voxels
    if WEIGHTED:
        w = tl.load(weight + tl.cast(b, OFFSET) * voxels + place, mask=inside, other=0.0).to(WORK)
    else:
        w = 1.0
    tl.store(partials + tl.program_id(0), tl.sum(tl.where(inside, w * total, 0.0)))
    if GRADIENT:
        factor = 2 * tl.load(scale).to(WORK) * w
        if D == 3:
            tl.store(gradient + at, factor * by_i, mask=inside)
        tl.store(gradient + at + (D - 2) * voxels, factor * by_j, mask=inside)
        tl.store(gradient + at + (D - 1) * voxels, factor * by_k, mask=inside)


def warp_ssd(fixed, moving, displacement, weight, padding, fill, need_gradient):
    f, m, u = (x.contiguous() for x in (fixed, moving, displacement))
    dtype = launch.work_dtype(f, m, u)
    w, divisor, scale = mean_over(f, weight, dtype)
    gradient = torch.empty(u.shape if need_gradient else 0, dtype=dtype, device=u.device)
    spatial = launch.sizes(u.shape[2:])
    partials = torch.zeros(tiles.count(u.shape[0], spatial), dtype=dtype, device=u.device)
    launch.run(
        _squares, partials.numel(), f, m, u, w, scale, gradient, partials, f.shape[1], *launch.sizes(m.shape[2:]), *spatial, fill,
        D=u.shape[1], PADDING=padding, WEIGHTED=w is not None, GRADIENT=need_gradient, WORK=launch.work_type(f, m, u),
        OFFSET=launch.offset_type(f, m, u), BLOCK_J=tiles.BLOCK_J, BLOCK_K=tiles.BLOCK_K,
    )  # fmt: skip
    return (partials.sum(dtype=torch.float64) / divisor).to(dtype), gradient
