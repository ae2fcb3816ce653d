"""Label maps warped by the majority of linear weights, in Triton. Formula, ties: csrc/core/majority.h.

Bytes a voxel in 3-D: 12 + 2 times a label's (displacement, map, result), 14 for one byte; the 8 labels of a sample come from L1, as in
warp.py, and with the same tiles. Weights are whole numbers of 60 bits, so that this finds the same label as any other backend. Comparing 8
labels with 8 takes some 200 instructions, several times what memory takes; but of a tile's 256 samples mostly all lie among equal labels,
and then the program skips the vote.
"""

import torch
import triton
import triton.language as tl

from regkit.kernels import launch, tiles
from regkit.kernels.sampling import EXTENT, ZEROS
from regkit.kernels.warp import displaced

VOTES = tl.constexpr(1 << 20)  # of an axis


@triton.jit
def _axis_votes(c, n, PADDING: tl.constexpr):
    """low, high: valid indices; whether each is a cell of the map (else it counts as fill); the votes of low and high, int64."""
    last = tl.cast(n - 1, tl.float32)
    known = c == c
    if PADDING == ZEROS:
        x = tl.where(known, tl.minimum(tl.maximum(c, -2.0), last + 2), -2.0)
        base = tl.floor(x)
        has_low, has_high = (base >= 0) & (base <= last), (base >= -1) & (base < last)
    else:
        x = tl.where(known, tl.minimum(tl.maximum(c, 0.0), last), 0.0)
        base = tl.floor(x)
        has_low = x >= 0
        if PADDING == EXTENT:
            has_low = (c >= -0.5) & (c <= last + 0.5)
        has_high = has_low
    upper = tl.floor((x - base) * VOTES + 0.5).to(tl.int64)
    low, high = tl.minimum(tl.maximum(base, 0.0), last), tl.minimum(tl.maximum(base + 1, 0.0), last)
    return low.to(tl.int32), high.to(tl.int32), has_low, has_high, VOTES - upper, upper


@triton.jit
def _four(source, row_low, row_high, has_row_low, has_row_high, low, high, has_low, has_high, inside, fill):
    """The labels of two rows of cells."""
    a = tl.load(source + row_low + low, mask=inside, other=0)
    b = tl.load(source + row_low + high, mask=inside, other=0)
    c = tl.load(source + row_high + low, mask=inside, other=0)
    d = tl.load(source + row_high + high, mask=inside, other=0)
    return (
        tl.where(has_row_low & has_low, a, fill), tl.where(has_row_low & has_high, b, fill),
        tl.where(has_row_high & has_low, c, fill), tl.where(has_row_high & has_high, d, fill),
    )  # fmt: skip


@triton.jit
def _sum(label, a, b, c, d, va, vb, vc, vd):
    """Votes for a label among four."""
    none = 0 * va
    return tl.where(a == label, va, none) + tl.where(b == label, vb, none) + tl.where(c == label, vc, none) + tl.where(d == label, vd, none)


@triton.jit
def _better(best, most, label, votes):
    taken = (votes > most) | ((votes == most) & (label < best))
    return tl.where(taken, label, best), tl.where(taken, votes, most)


@triton.jit
def _majority(labels, u, out, fill, channels, mi, mj, mk, ni, nj, nk,
              D: tl.constexpr, PADDING: tl.constexpr, OFFSET: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    ci, cj, ck, at = displaced(u, b, i, j, k, inside, ni, nj, nk, D, tl.float32, OFFSET)
    jl, jh, has_jl, has_jh, vjl, vjh = _axis_votes(cj, mj, PADDING)
    kl, kh, has_kl, has_kh, vkl, vkh = _axis_votes(ck, mk, PADDING)
    va, vb, vc, vd = vjl * vkl, vjl * vkh, vjh * vkl, vjh * vkh
    row_a, row_c = tl.cast(jl, OFFSET) * mk, tl.cast(jh, OFFSET) * mk
    has_a, has_c = has_jl, has_jh
    if D == 3:
        il, ih, has_il, has_ih, vil, vih = _axis_votes(ci, mi, PADDING)
        ve, vf, vg, vh = va * vih, vb * vih, vc * vih, vd * vih
        va, vb, vc, vd = va * vil, vb * vil, vc * vil, vd * vil
        plane = tl.cast(mj, OFFSET) * mk
        row_e, row_g = row_a + ih * plane, row_c + ih * plane
        row_a, row_c = row_a + il * plane, row_c + il * plane
        has_e, has_g = has_a & has_ih, has_c & has_ih
        has_a, has_c = has_a & has_il, has_c & has_il
    cells, voxels = tl.cast(mi, OFFSET) * mj * mk, tl.cast(ni, OFFSET) * nj * nk
    source = labels + tl.cast(b, OFFSET) * channels * cells
    target = out + tl.cast(b, OFFSET) * (channels - D) * voxels + at
    outside = tl.load(fill)
    for _channel in range(channels):
        la, lb, lc, ld = _four(source, row_a, row_c, has_a, has_c, kl, kh, has_kl, has_kh, inside, outside)
        mixed = (la != lb) | (la != lc) | (la != ld)
        if D == 3:
            le, lf, lg, lh = _four(source, row_e, row_g, has_e, has_g, kl, kh, has_kl, has_kh, inside, outside)
            mixed = mixed | (la != le) | (la != lf) | (la != lg) | (la != lh)
        best = la
        if tl.max(tl.max(mixed.to(tl.int32), 1), 0) > 0:
            sa, sb = _sum(la, la, lb, lc, ld, va, vb, vc, vd), _sum(lb, la, lb, lc, ld, va, vb, vc, vd)
            sc, sd = _sum(lc, la, lb, lc, ld, va, vb, vc, vd), _sum(ld, la, lb, lc, ld, va, vb, vc, vd)
            if D == 3:
                sa += _sum(la, le, lf, lg, lh, ve, vf, vg, vh)
                sb += _sum(lb, le, lf, lg, lh, ve, vf, vg, vh)
                sc += _sum(lc, le, lf, lg, lh, ve, vf, vg, vh)
                sd += _sum(ld, le, lf, lg, lh, ve, vf, vg, vh)
            most = sa
            best, most = _better(best, most, lb, sb)
            best, most = _better(best, most, lc, sc)
            best, most = _better(best, most, ld, sd)
            if D == 3:
                se = _sum(le, la, lb, lc, ld, va, vb, vc, vd) + _sum(le, le, lf, lg, lh, ve, vf, vg, vh)
                sf = _sum(lf, la, lb, lc, ld, va, vb, vc, vd) + _sum(lf, le, lf, lg, lh, ve, vf, vg, vh)
                sg = _sum(lg, la, lb, lc, ld, va, vb, vc, vd) + _sum(lg, le, lf, lg, lh, ve, vf, vg, vh)
                sh = _sum(lh, la, lb, lc, ld, va, vb, vc, vd) + _sum(lh, le, lf, lg, lh, ve, vf, vg, vh)
                best, most = _better(best, most, le, se)
                best, most = _better(best, most, lf, sf)
                best, most = _better(best, most, lg, sg)
                best, most = _better(best, most, lh, sh)
        tl.store(target, best, mask=inside)
        source += cells
        target += voxels


def warp_labels(labels, displacement, padding, fill):
    out = labels.new_empty((*labels.shape[:2], *displacement.shape[2:]))
    outside = torch.full((), fill, dtype=torch.int64, device=labels.device).to(labels.dtype)
    # Triton's one bit numbers have no order.
    source, target, outside = (x.view(torch.uint8) if x.dtype == torch.bool else x for x in (labels.contiguous(), out, outside))
    u, spatial = displacement.contiguous(), launch.sizes(displacement.shape[2:])
    launch.run(
        _majority, tiles.count(u.shape[0], spatial), source, u, target, outside, labels.shape[1], *launch.sizes(labels.shape[2:]), *spatial,
        D=u.shape[1], PADDING=padding, OFFSET=launch.offset_type(labels, u, out), BLOCK_J=tiles.BLOCK_J, BLOCK_K=tiles.BLOCK_K,
        num_warps=8,  # a voxel a thread: the vote holds 8 labels and 8 weights of 64 bits
    )  # fmt: skip
    return out
