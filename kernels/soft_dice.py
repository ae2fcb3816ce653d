"""Overlap of a label map with a linearly warped one, and its gradient by the displacement, in Triton. Formulas: csrc/core/soft_dice.h.

Bytes a voxel in 3-D, one byte a label: 14 for the sums (displacement, two labels), 26 for the gradient (those, and 12 out). The 8 labels
of a sample and their codes come from L1: a table turns a label into its place in the list of those wanted.

The sums are a weighted histogram, which Triton has no operation for. Adding 8 weights a voxel to L numbers in memory would be 55 million
atomics on some 35 addresses for a brain; comparing every voxel with every label would be 8 L instructions. But a tile of 8 x 32 voxels
has few labels: a program takes them one after the other, smallest code first, sums the weights of each in registers, and adds three
numbers a label to the table of sums: nothing at all in the background. Additions are of 64-bit fixed point numbers, so that their order
does not matter and the result is the same bits in every run. Their unit fits the number of voxels: 2^-39 for 7 million.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl

from regkit.kernels import launch, tiles
from regkit.kernels.sampling import axis_sample
from regkit.kernels.warp import displaced


@triton.jit
def _code(labels, at, inside, table, first, length, none):
    """Code of the label at an offset: its place among those wanted, or `none`."""
    place = tl.load(labels + at, mask=inside, other=0).to(tl.int64) - first
    wanted = inside & (place >= 0) & (place < length)
    return tl.load(table + place, mask=wanted, other=none)


@triton.jit
def _row(moving, row, low, high, inside, table, first, length, none):
    """Codes of the two cells of a row of cells."""
    return _code(moving, row + low, inside, table, first, length, none), _code(moving, row + high, inside, table, first, length, none)


@triton.jit
def _here(code, low, high, weight_low, weight_high, weight):
    """The weight that two cells of a row give to a code."""
    zero = 0 * weight
    return weight * (tl.where(low == code, weight_low, zero) + tl.where(high == code, weight_high, zero))


@triton.jit
def _beyond(code, low, high, none):
    """The smallest of two cells' codes above a code."""
    return tl.minimum(tl.where(low > code, low, none), tl.where(high > code, high, none))


@triton.jit
def _smallest(x):
    return tl.min(tl.min(x, 1), 0)


@triton.jit
def _total(x):
    return tl.sum(tl.sum(x, 1), 0)


@triton.jit
def _sums(fixed, moving, u, table, sums, lost, first, length, none, scale, mi, mj, mk, ni, nj, nk,
          D: tl.constexpr, PADDING: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr, BLOCK_J: tl.constexpr,
          BLOCK_K: tl.constexpr):  # fmt: skip
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    ci, cj, ck, at = displaced(u, b, i, j, k, inside, ni, nj, nk, D, WORK, OFFSET)
    known = (cj == cj) & (ck == ck) & (ci == ci)
    tl.store(lost + b, 1, mask=_smallest((known | (inside == 0)).to(tl.int32)) == 0)
    jl, jh, wjl, wjh, sjl, sjh = axis_sample(tl.where(known, cj, 0.0), mj, PADDING)
    kl, kh, wkl, wkh, skl, skh = axis_sample(tl.where(known, ck, 0.0), mk, PADDING)
    source = moving + tl.cast(b, OFFSET) * mi * mj * mk
    row_a, row_c = tl.cast(jl, OFFSET) * mk, tl.cast(jh, OFFSET) * mk
    wa, wc = wjl, wjh
    if D == 3:
        il, ih, wil, wih, sil, sih = axis_sample(tl.where(known, ci, 0.0), mi, PADDING)
        plane = tl.cast(mj, OFFSET) * mk
        row_e, row_g, we, wg = row_a + ih * plane, row_c + ih * plane, wih * wjl, wih * wjh
        row_a, row_c, wa, wc = row_a + il * plane, row_c + il * plane, wil * wjl, wil * wjh
        e, f = _row(source, row_e, kl, kh, inside, table, first, length, none)
        g, h = _row(source, row_g, kl, kh, inside, table, first, length, none)
    a, b_ = _row(source, row_a, kl, kh, inside, table, first, length, none)
    c, d = _row(source, row_c, kl, kh, inside, table, first, length, none)
    still = _code(fixed, at - tl.cast(b, OFFSET) * (D - 1) * (tl.cast(ni, OFFSET) * nj * nk), inside, table, first, length, none)
    code = tl.cast(-1, tl.int32)
    while code < none:
        ahead = tl.minimum(_beyond(code, a, b_, none), _beyond(code, c, d, none))
        ahead = tl.minimum(ahead, tl.where(still > code, still, none))
        if D == 3:
            ahead = tl.minimum(ahead, tl.minimum(_beyond(code, e, f, none), _beyond(code, g, h, none)))
        code = _smallest(ahead)
        if code < none:
            share = _here(code, a, b_, wkl, wkh, wa) + _here(code, c, d, wkl, wkh, wc)
            if D == 3:
                share += _here(code, e, f, wkl, wkh, we) + _here(code, g, h, wkl, wkh, wg)
            target = sums + tl.cast(b, tl.int64) * 3 * none + code
            both, warped = _total(tl.where(still == code, share, 0.0)), _total(share)
            tl.atomic_add(target, (both * scale).to(tl.int64), sem="relaxed")
            tl.atomic_add(target + none, (warped * scale).to(tl.int64), sem="relaxed")
            tl.atomic_add(target + 2 * none, _total((still == code).to(tl.int32)).to(tl.int64), sem="relaxed")


@triton.jit
def _value(by_warped, by_both, code, still, inside):
    """Derivative of the sums' functional by the weight of a cell of this code."""
    return tl.load(by_warped + code, mask=inside, other=0.0) + tl.where(code == still, by_both, 0.0)


@triton.jit
def _pair(by_warped, by_both, low, high, still, weight_low, weight_high, slope_low, slope_high, inside):
    """Two cells of a row, weighed and differentiated along k."""
    x, y = _value(by_warped, by_both, low, still, inside), _value(by_warped, by_both, high, still, inside)
    return weight_low * x + weight_high * y, slope_low * x + slope_high * y


@triton.jit
def _gradient(fixed, moving, u, table, tables, out, first, length, none, mi, mj, mk, ni, nj, nk,
              D: tl.constexpr, PADDING: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr, BLOCK_J: tl.constexpr,
              BLOCK_K: tl.constexpr):  # fmt: skip
    """tables (B, 3, none + 1): derivatives by both and by warped, each with 0 for none; then the poison, 0 or NaN."""
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    ci, cj, ck, at = displaced(u, b, i, j, k, inside, ni, nj, nk, D, WORK, OFFSET)
    voxels = tl.cast(ni, OFFSET) * nj * nk
    jl, jh, wjl, wjh, sjl, sjh = axis_sample(cj, mj, PADDING)
    kl, kh, wkl, wkh, skl, skh = axis_sample(ck, mk, PADDING)
    source = moving + tl.cast(b, OFFSET) * mi * mj * mk
    here = tables + tl.cast(b, tl.int64) * 3 * (none + 1)
    by_warped, poison = here + none + 1, tl.load(here + 2 * (none + 1))
    still = _code(fixed, at - tl.cast(b, OFFSET) * (D - 1) * voxels, inside, table, first, length, none)
    by_both = tl.load(here + still, mask=inside, other=0.0)
    row_a, row_c = tl.cast(jl, OFFSET) * mk, tl.cast(jh, OFFSET) * mk
    if D == 3:
        il, ih, wil, wih, sil, sih = axis_sample(ci, mi, PADDING)
        plane = tl.cast(mj, OFFSET) * mk
        row_e, row_g, row_a, row_c = row_a + ih * plane, row_c + ih * plane, row_a + il * plane, row_c + il * plane
    low, high = _row(source, row_a, kl, kh, inside, table, first, length, none)
    along_a, step_a = _pair(by_warped, by_both, low, high, still, wkl, wkh, skl, skh, inside)
    low, high = _row(source, row_c, kl, kh, inside, table, first, length, none)
    along_c, step_c = _pair(by_warped, by_both, low, high, still, wkl, wkh, skl, skh, inside)
    by_j, by_k = sjl * along_a + sjh * along_c, wjl * step_a + wjh * step_c
    if D == 3:
        low, high = _row(source, row_e, kl, kh, inside, table, first, length, none)
        along_e, step_e = _pair(by_warped, by_both, low, high, still, wkl, wkh, skl, skh, inside)
        low, high = _row(source, row_g, kl, kh, inside, table, first, length, none)
        along_g, step_g = _pair(by_warped, by_both, low, high, still, wkl, wkh, skl, skh, inside)
        by_i = sil * (wjl * along_a + wjh * along_c) + sih * (wjl * along_e + wjh * along_g)
        by_j = wil * by_j + wih * (sjl * along_e + sjh * along_g)
        by_k = wil * by_k + wih * (wjl * step_e + wjh * step_g)
        tl.store(out + at, (by_i + poison).to(out.dtype.element_ty), mask=inside)
    tl.store(out + at + (D - 2) * voxels, (by_j + poison).to(out.dtype.element_ty), mask=inside)
    tl.store(out + at + (D - 1) * voxels, (by_k + poison).to(out.dtype.element_ty), mask=inside)


@lru_cache(maxsize=64)
def _table(labels: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Codes of all numbers from the smallest label to the largest. Kept: a copy to a GPU waits, and no graph can capture it."""
    codes = [len(labels)] * (max(labels) - min(labels) + 1)
    for code, label in enumerate(labels):
        codes[label - min(labels)] = code
    return torch.tensor(codes, dtype=torch.int32, device=device)


def _arguments(fixed, moving, u, labels) -> tuple[tuple, tuple, dict]:
    """Tensors, numbers that every kernel takes, and its options."""
    table = _table(tuple(labels), u.device)
    maps = (x.view(torch.uint8) if x.dtype == torch.bool else x for x in (fixed.contiguous(), moving.contiguous()))
    numbers = min(labels), len(table), len(labels)
    options = dict(
        D=u.shape[1], WORK=launch.work_type(u), OFFSET=launch.offset_type(moving, u), BLOCK_J=tiles.BLOCK_J, BLOCK_K=tiles.BLOCK_K
    )
    return (*maps, u, table), numbers, options


def soft_dice(fixed, moving, displacement, labels, padding):
    u, spatial = displacement.contiguous(), launch.sizes(displacement.shape[2:])
    tensors, numbers, options = _arguments(fixed, moving, u, labels)
    scale = 2.0 ** (62 - max(1, fixed[:1].numel()).bit_length())
    sums = torch.zeros((u.shape[0], 3, len(labels)), dtype=torch.int64, device=u.device)
    lost = torch.zeros(u.shape[0], dtype=torch.int32, device=u.device)
    launch.run(
        _sums, tiles.count(u.shape[0], spatial), *tensors, sums, lost, *numbers, scale, *launch.sizes(moving.shape[2:]), *spatial,
        PADDING=padding, **options,
    )  # fmt: skip
    result = sums.double()
    result[:, :2] /= scale
    return result.masked_fill_(lost[:, None, None] > 0, float("nan"))


def soft_dice_backward(grad, fixed, moving, displacement, labels, padding):
    u, spatial = displacement.contiguous(), launch.sizes(displacement.shape[2:])
    tensors, numbers, options = _arguments(fixed, moving, u, labels)
    tables = torch.zeros((u.shape[0], 3, len(labels) + 1), dtype=launch.work_dtype(u), device=u.device)
    tables[:, :2, :-1] = grad[:, :2]
    tables[:, 2, 0] = (0 * grad[:, :2]).sum((1, 2))
    out = torch.empty_like(u)
    launch.run(
        _gradient, tiles.count(u.shape[0], spatial), *tensors, tables, out, *numbers, *launch.sizes(moving.shape[2:]), *spatial,
        PADDING=padding, **options,
    )  # fmt: skip
    return out
