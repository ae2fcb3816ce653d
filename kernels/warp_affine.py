"""Images and label maps sampled through an affine, in Triton. Positions, in whole steps of 2^-32 voxel: csrc/core/warp_affine.h.

Bytes a voxel: image and result, 8 for one channel of 4 bytes; there is no displacement (12 in 3-D), as there is for warp.py. Whole-number
positions take no float64, which most GPUs compute 32 or 64 times slower than float32: products with the matrix are those of a tile's rows
and columns alone, and each voxel adds one 64-bit number an axis, whose upper word is the cell and whose lower word the weight. Tiles as in
warp.py.
"""

import torch
import triton
import triton.language as tl

from regkit.kernels import launch, tiles
from regkit.kernels.neighbours import number
from regkit.kernels.sampling import BORDER, ZEROS

VOXEL = tl.constexpr(1 << 32)
UNKNOWN = tl.constexpr(-(1 << 62))
SHIFT_LIMIT, REACH = 2.0**29, 2.0**28  # voxels
ENTRIES = 16  # room for the 12 of a matrix


@triton.jit
def _steps(matrix, out, reach: tl.float64, shift_limit: tl.float64, D: tl.constexpr, ENTRIES: tl.constexpr):
    """One item's matrix in steps."""
    entry = tl.arange(0, ENTRIES)
    used, is_shift = entry < D * (D + 1), entry % (D + 1) == D
    at = tl.program_id(0) * D * (D + 1) + entry
    x = tl.load(matrix + at, mask=used, other=0.0).to(tl.float64)
    unknown = tl.max((x != x).to(tl.int32), 0) > 0
    limit = tl.where(is_shift, shift_limit, reach)
    x = tl.where(x < limit, tl.where(x > -limit, x, -limit), limit)
    steps = tl.floor(x * 4294967296.0 + 0.5).to(tl.int64)
    nowhere = tl.where(is_shift, UNKNOWN, 0)
    tl.store(out + at, tl.where(unknown, nowhere, steps), mask=used)


@triton.jit
def _positions(steps, b, i, j, k, axis, D: tl.constexpr):
    """Positions along one axis of the image for a tile."""
    row = steps + (b * D + axis) * (D + 1)
    rows = tl.load(row + D) + tl.load(row + D - 2) * j.to(tl.int64)
    if D == 3:
        rows += tl.load(row) * i
    return rows + tl.load(row + D - 1) * k.to(tl.int64)


@triton.jit
def _cells(c, n, PADDING: tl.constexpr, WORK: tl.constexpr):
    """low, high: valid indices; whether each is a cell of the image (else it counts as fill); the weights of low and high."""
    last = (n - 1).to(tl.int64) * VOXEL
    if PADDING == ZEROS:
        x = c
    else:
        x = tl.minimum(tl.maximum(c, 0), last)
    base = (x >> 32).to(tl.int32)
    if PADDING == ZEROS:
        has_low, has_high = (base >= 0) & (base < n), (base >= -1) & (base < n - 1)
    elif PADDING == BORDER:
        has_low = base >= 0
        has_high = has_low
    else:
        has_low = (c >= -VOXEL // 2) & (c <= last + VOXEL // 2)
        has_high = has_low
    if WORK == tl.float64:
        upper = (x & (VOXEL - 1)).to(tl.float64) * (1.0 / 4294967296.0)
    else:
        upper = ((x & (VOXEL - 1)) >> 8).to(tl.int32).to(tl.float32) * (1.0 / 16777216.0)
    low, high = tl.minimum(tl.maximum(base, 0), n - 1), tl.minimum(tl.maximum(base + 1, 0), n - 1)
    return low, high, has_low, has_high, 1 - upper, upper


@triton.jit
def _along(source, row, low, high, has_low, has_high, weight_low, weight_high, fill, WORK: tl.constexpr):
    """The two cells of a row of cells by their weights."""
    a = tl.where(has_low, tl.load(source + row + low, mask=has_low, other=0.0).to(WORK), fill)
    b = tl.where(has_high, tl.load(source + row + high, mask=has_high, other=0.0).to(WORK), fill)
    return weight_low * a + weight_high * b


@triton.jit
def _linear(image, steps, out, channels, mi, mj, mk, ni, nj, nk, fill: tl.float64,
            D: tl.constexpr, PADDING: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr,
            BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    fill = number(fill, WORK)
    jl, jh, in_jl, in_jh, wjl, wjh = _cells(_positions(steps, b, i, j, k, D - 2, D), mj, PADDING, WORK)
    kl, kh, in_kl, in_kh, wkl, wkh = _cells(_positions(steps, b, i, j, k, D - 1, D), mk, PADDING, WORK)
    in_jl, in_jh = in_jl & inside, in_jh & inside
    row_ll, row_lh = tl.cast(jl, OFFSET) * mk, tl.cast(jh, OFFSET) * mk
    in_ll, in_lh, covered = in_jl, in_jh, (in_jl | in_jh) & (in_kl | in_kh)
    if D == 3:
        il, ih, in_il, in_ih, wil, wih = _cells(_positions(steps, b, i, j, k, 0, D), mi, PADDING, WORK)
        plane = tl.cast(mj, OFFSET) * mk
        row_hl, row_hh = row_ll + ih * plane, row_lh + ih * plane
        row_ll, row_lh = row_ll + il * plane, row_lh + il * plane
        in_hl, in_hh = in_jl & in_ih, in_jh & in_ih
        in_ll, in_lh, covered = in_jl & in_il, in_jh & in_il, covered & (in_il | in_ih)
    cells, voxels = tl.cast(mi, OFFSET) * mj * mk, tl.cast(ni, OFFSET) * nj * nk
    source = image + tl.cast(b, OFFSET) * channels * cells
    target = out + tl.cast(b, OFFSET) * channels * voxels + (tl.cast(i, OFFSET) * nj + j) * nk + k
    known = tl.load(steps + b * D * (D + 1) + D) != UNKNOWN
    covered, outside = covered & known, tl.where(known, fill, float("nan"))
    for _channel in range(channels):
        value = wjl * _along(source, row_ll, kl, kh, in_ll & in_kl, in_ll & in_kh, wkl, wkh, fill, WORK)
        value += wjh * _along(source, row_lh, kl, kh, in_lh & in_kl, in_lh & in_kh, wkl, wkh, fill, WORK)
        if D == 3:
            upper = wjl * _along(source, row_hl, kl, kh, in_hl & in_kl, in_hl & in_kh, wkl, wkh, fill, WORK)
            upper += wjh * _along(source, row_hh, kl, kh, in_hh & in_kl, in_hh & in_kh, wkl, wkh, fill, WORK)
            value = wil * value + wih * upper
        tl.store(target, tl.where(covered, value, outside).to(out.dtype.element_ty), mask=inside)
        source += cells
        target += voxels


@triton.jit
def _nearest_cell(c, n, PADDING: tl.constexpr):
    """Index of the nearest cell (halves round up), and whether it is in the image; where it is not, the index is valid all the same."""
    cell = ((c + VOXEL // 2) >> 32).to(tl.int32)
    inside = (cell >= 0) & (cell < n)
    if PADDING == BORDER:
        inside = cell == cell
    return tl.minimum(tl.maximum(cell, 0), n - 1), inside


@triton.jit
def _nearest(labels, steps, out, channels, mi, mj, mk, ni, nj, nk,
             D: tl.constexpr, PADDING: tl.constexpr, OFFSET: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    cell_j, in_j = _nearest_cell(_positions(steps, b, i, j, k, D - 2, D), mj, PADDING)
    cell_k, in_k = _nearest_cell(_positions(steps, b, i, j, k, D - 1, D), mk, PADDING)
    offset, covered = tl.cast(cell_j, OFFSET) * mk + cell_k, inside & in_j & in_k
    if D == 3:
        cell_i, in_i = _nearest_cell(_positions(steps, b, i, j, k, 0, D), mi, PADDING)
        offset, covered = offset + tl.cast(cell_i, OFFSET) * mj * mk, covered & in_i
    cells, voxels = tl.cast(mi, OFFSET) * mj * mk, tl.cast(ni, OFFSET) * nj * nk
    source = labels + tl.cast(b, OFFSET) * channels * cells + offset
    target = out + tl.cast(b, OFFSET) * channels * voxels + (tl.cast(i, OFFSET) * nj + j) * nk + k
    for _channel in range(channels):
        tl.store(target, tl.load(source, mask=covered, other=0), mask=inside)
        source += cells
        target += voxels


def _launch(kernel, source, matrix, out, padding, *tail, **options) -> None:
    """The kernel on all tiles of the result's voxels."""
    if not out.numel():  # an image of no channels, in front of labels
        return
    batch, dims = source.shape[0], matrix.shape[1]
    steps = torch.empty(matrix.shape, dtype=torch.int64, device=matrix.device)
    reach = REACH / max(out.shape[2:])
    launch.run(_steps, batch, matrix.contiguous(), steps, reach, SHIFT_LIMIT, D=dims, ENTRIES=ENTRIES, num_warps=1)
    spatial = launch.sizes(out.shape[2:])
    launch.run(
        kernel, tiles.count(batch, spatial), source.contiguous(), steps, out, source.shape[1], *launch.sizes(source.shape[2:]), *spatial,
        *tail, D=dims, PADDING=padding, OFFSET=launch.offset_type(source, out), BLOCK_J=tiles.BLOCK_J, BLOCK_K=tiles.BLOCK_K, **options,
    )  # fmt: skip


def warp_affine(image, matrix, size, padding, fill):
    out = image.new_empty((*image.shape[:2], *size))
    _launch(_linear, image, matrix, out, padding, fill, WORK=launch.work_type(image))
    return out


def warp_affine_nearest(labels, matrix, size, padding):
    out = labels.new_empty((*labels.shape[:2], *size))
    # Triton's one bit numbers take a byte each.
    source, target = (x.view(torch.uint8) if x.dtype == torch.bool else x for x in (labels.contiguous(), out))
    _launch(_nearest, source, matrix, target, padding)
    return out
