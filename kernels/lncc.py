"""Local NCC: value, map and gradients, in Triton. Formulas: csrc/core/lncc.h.

A window is the product of three boxes. Neighbours along i and j meet in the program that marches along that axis with running sums: plus
what enters the window, minus what leaves it. Neighbours along k are added tap by tap, from L1. Programs cannot hand rows to each other
without memory in between, so the axes are dealt out to three kernels such that as little as possible lies between them:

  _plane_sums  boxes along k and i of the five products of the images       reads a, b: 8 bytes a voxel, writes 5 sums: 20
  _windows     boxes along j of those, the windows' values and adjoints,    reads 20, writes 3 adjoints (5 for both images): 12
               and boxes along j of the adjoints, half a window behind
  _gradient    boxes along k and i of those, and the gradient               reads 12 and a, b: 8, writes 4

Together 84 bytes a voxel in float32, 48 without gradient: 134 us at 160 x 192 x 224 and 4.3 TB/s, if bytes bind. The roofline's 12 need
planes in shared memory, which CUDA C++ has and Triton has not. (A kernel that convolves 8^3 tiles in shared memory moves 60 bytes and more,
but fetches each voxel 5 to 8 times from L2, and adds tap by tap along all three axes.) Everything streams here, in 32 to 110 registers.
What leaves is read a second time, planes from L2, rows and taps from L1. With windows of 9 the taps are 40 loads a voxel from L1, less time
than the bytes take; they alone grow with the window, and bind from about 15 on. Volumes go in groups of a few million voxels: the space
between the kernels is that of a group, 8 volumes, and part of it stays in L2.

Adjoints span many orders of magnitude (1 / variance), so running sums of them are float64: what left leaves no trace. Running sums start
anew after some tens of planes or rows, which bounds their drift and makes enough programs. Images are shifted by about their mean: without
it the variance of a bright image is all rounding; the zeros outside, then -shift, are added by their number. The programs' sums are added
by torch in float64: the same bits in every run.
"""

import math

import torch
import triton
import triton.language as tl

from regkit.kernels import launch, tiles
from regkit.kernels.mean import mean_over

PLANES, ROWS = 32, 48  # at least so many between two starts of a running sum
BLOCK = {"BLOCK_J": 8, "BLOCK_K": 32}  # of the kernels that march along i
BLOCK_OF_WINDOWS = {"BLOCK_I": 8, "BLOCK_K": 32}  # of the one that marches along j
GROUP = 1 << 22  # voxels


@triton.jit
def _march(ni, nj, nk, CHUNK: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):
    """The volume, first plane and tile (j, k, inside) of a program that marches along i through CHUNK planes."""
    chunk_of_volume, chunk, j, k, inside = tiles.tile(tl.cdiv(ni, CHUNK), nj, nk, BLOCK_J, BLOCK_K)
    return chunk_of_volume, chunk * CHUNK, j, k, inside


@triton.jit
def _tap_products(sa, sb, saa, sbb, sab, a, b, at, k, n, inside, shift_a, shift_b, WORK: tl.constexpr):
    there = inside & (k >= 0) & (k < n)
    x = tl.where(there, tl.load(a + at, mask=there, other=0.0).to(WORK) - shift_a, 0.0)
    y = tl.where(there, tl.load(b + at, mask=there, other=0.0).to(WORK) - shift_b, 0.0)
    return sa + x, sb + y, saa + x * x, sbb + y * y, sab + x * y


@triton.jit
def _products(a, b, at, k, n, inside, shift_a, shift_b, W: tl.constexpr, WORK: tl.constexpr):
    """The five products of a plane's tile, summed along k. `at` is the offset of the tile's voxels."""
    zero = tl.zeros(inside.shape, WORK)
    sa, sb, saa, sbb, sab = zero, zero, zero, zero, zero
    if W <= 15:
        for t in tl.static_range(-(W // 2), W // 2 + 1):
            sa, sb, saa, sbb, sab = _tap_products(sa, sb, saa, sbb, sab, a, b, at + t, k + t, n, inside, shift_a, shift_b, WORK)
    else:
        for t in range(-(W // 2), W // 2 + 1):
            sa, sb, saa, sbb, sab = _tap_products(sa, sb, saa, sbb, sab, a, b, at + t, k + t, n, inside, shift_a, shift_b, WORK)
    return sa, sb, saa, sbb, sab


@triton.jit
def _plane_sums(a, b, shifts_a, shifts_b, sums, volumes, ni, nj, nk,
                WI: tl.constexpr, W: tl.constexpr, CHUNK: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr,
                BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    volume, i0, j, k, inside = _march(ni, nj, nk, CHUNK, BLOCK_J, BLOCK_K)
    shift_a, shift_b = tl.load(shifts_a + volume), tl.load(shifts_b + volume)
    plane = tl.cast(nj, OFFSET) * nk
    at = tl.cast(volume, OFFSET) * ni * plane + tl.cast(j, OFFSET) * nk + k
    between = tl.cast(volumes, OFFSET) * ni * plane
    zero = tl.zeros(inside.shape, WORK)
    sa, sb, saa, sbb, sab = zero, zero, zero, zero, zero
    # The planes of the first window enter before the first plane is written.
    for i in range(i0 - WI // 2 * 2, tl.minimum(i0 + CHUNK, ni)):
        entering, leaving = i + WI // 2, i - WI // 2 - 1
        if (entering >= 0) & (entering < ni):
            xa, xb, xaa, xbb, xab = _products(a, b, at + entering * plane, k, nk, inside, shift_a, shift_b, W, WORK)
            sa, sb, saa, sbb, sab = sa + xa, sb + xb, saa + xaa, sbb + xbb, sab + xab
        if (leaving >= 0) & (i > i0):
            xa, xb, xaa, xbb, xab = _products(a, b, at + leaving * plane, k, nk, inside, shift_a, shift_b, W, WORK)
            sa, sb, saa, sbb, sab = sa - xa, sb - xb, saa - xaa, sbb - xbb, sab - xab
        if i >= i0:
            out = sums + at + i * plane
            tl.store(out, sa, mask=inside)
            tl.store(out + between, sb, mask=inside)
            tl.store(out + 2 * between, saa, mask=inside)
            tl.store(out + 3 * between, sbb, mask=inside)
            tl.store(out + 4 * between, sab, mask=inside)


@triton.jit
def _inside(x, n, W: tl.constexpr):
    """How many voxels of a window centred on x lie in the image."""
    return tl.minimum(x + W // 2, n - 1) - tl.maximum(x - W // 2, 0) + 1


@triton.jit
def _five(sums, between, there):
    return (
        tl.load(sums, mask=there, other=0.0),
        tl.load(sums + between, mask=there, other=0.0),
        tl.load(sums + 2 * between, mask=there, other=0.0),
        tl.load(sums + 3 * between, mask=there, other=0.0),
        tl.load(sums + 4 * between, mask=there, other=0.0),
    )


@triton.jit
def _exchange(box, fresh, enter, leave, there, leaves):
    """box + what is fresh - what leaves, which the ring has kept since it was fresh."""
    tl.store(enter, fresh, mask=there)
    return box + (fresh.to(tl.float64) - tl.load(leave, mask=leaves, other=0.0).to(tl.float64))


@triton.jit(do_not_specialize=["first_volume"])
def _windows(sums, weight, shifts_a, shifts_b, partials, ncc_map, ring, boxes, first_volume, per_weight, volumes, ni, nj, nk,
             eps: tl.float64, WI: tl.constexpr, W: tl.constexpr, CHUNK: tl.constexpr, WEIGHTED: tl.constexpr, MAP: tl.constexpr,
             A: tl.constexpr, B: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr,
             BLOCK_I: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    KINDS: tl.constexpr = 0 if not (A or B) else (5 if A and B else 3)
    R: tl.constexpr = W // 2
    REACH: tl.constexpr = R if KINDS else 0  # adjoints of rows so far away reach the chunk
    FULL: tl.constexpr = WI * W * W
    INVERSE_N: tl.constexpr = 1.0 / FULL
    SLICE: tl.constexpr = BLOCK_I * BLOCK_K
    # Planes of all volumes in one row, so that 2-D images share programs too.
    tiles_k, chunks, planes = tl.cdiv(nk, BLOCK_K), tl.cdiv(nj, CHUNK), volumes * ni
    program = tl.program_id(0)
    lane_k, lane_i = tl.arange(0, BLOCK_K)[None, :], tl.arange(0, BLOCK_I)[:, None]
    k = (program % tiles_k) * BLOCK_K + lane_k
    j0 = (program // tiles_k) % chunks * CHUNK
    p = program // (tiles_k * chunks) * BLOCK_I + lane_i
    volume, i = p // ni, p % ni
    inside = (p < planes) & (k < nk)
    plane = tl.cast(nj, OFFSET) * nk
    between = plane * planes
    at = tl.cast(p, OFFSET) * plane + k
    shift_a = tl.load(shifts_a + volume, mask=p < planes, other=0.0)
    shift_b = tl.load(shifts_b + volume, mask=p < planes, other=0.0)
    inside_ik = _inside(i, ni, WI) * _inside(k, nk, W)
    least = (tl.zeros((1, 1), tl.float64) + eps).to(WORK)
    total = tl.zeros((BLOCK_I, BLOCK_K), WORK)
    sa, sb, saa, sbb, sab = total, total, total, total, total
    cross_box = tl.zeros((BLOCK_I, BLOCK_K), tl.float64)
    square_box, linear_box, square_b_box, linear_b_box = cross_box, cross_box, cross_box, cross_box
    kept = ring + tl.cast(program, tl.int64) * ((W + 1) * KINDS * SLICE) + lane_i * BLOCK_K + lane_k
    c0 = j0 - REACH
    for j in range(c0 - R, c0 + R):
        row = j + 0 * k  # a block: Triton's interpreter cannot combine a mask with a scalar condition
        xa, xb, xaa, xbb, xab = _five(sums + at + j * nk, between, inside & (row >= 0) & (row < nj))
        sa, sb, saa, sbb, sab = sa + xa, sb + xb, saa + xaa, sbb + xbb, sab + xab
    for j in range(c0, tl.minimum(j0 + CHUNK, nj) + REACH):
        row = j + 0 * k
        enters = inside & (row + R >= 0) & (row + R < nj)
        leaves = inside & (row - R - 1 >= 0) & (row - R - 1 < nj) & (row > c0)
        xa, xb, xaa, xbb, xab = _five(sums + at + (j + R) * nk, between, enters)
        ya, yb, yaa, ybb, yab = _five(sums + at + (j - R - 1) * nk, between, leaves)
        sa, sb, saa, sbb, sab = sa + (xa - ya), sb + (xb - yb), saa + (xaa - yaa), sbb + (xbb - ybb), sab + (xab - yab)
        there = inside & (row >= 0) & (row < nj)
        w = tl.full((BLOCK_I, BLOCK_K), 1.0, WORK)
        if WEIGHTED:
            of = tl.cast((first_volume + volume) // per_weight, OFFSET) * ni + i
            w = tl.load(weight + of * plane + j * nk + k, mask=there, other=0.0).to(WORK)
        outside = (FULL - inside_ik * _inside(row, nj, W)).to(WORK)
        ta, tb = sa - outside * shift_a, sb - outside * shift_b
        c = sab + outside * shift_a * shift_b - ta * tb * INVERSE_N
        va, vb = saa + outside * shift_a * shift_a - ta * ta * INVERSE_N, sbb + outside * shift_b * shift_b - tb * tb * INVERSE_N
        ia, ib = 1.0 / (tl.maximum(va, 0.0) + least), 1.0 / (tl.maximum(vb, 0.0) + least)
        ncc = c * c * ia * ib
        mine = there & (row >= j0) & (row < j0 + CHUNK)
        total += tl.where(mine, w * ncc, 0.0)
        if MAP:
            tl.store(ncc_map + at + j * nk, ncc.to(ncc_map.dtype.element_ty), mask=mine)
        if KINDS:
            # One slot more than the window: what leaves is overwritten in the next step, after the barrier, whoever writes and reads it.
            tl.debug_barrier()
            fresh, old = kept + (j - c0) % (W + 1) * (KINDS * SLICE), kept + (j - c0 + 1) % (W + 1) * (KINDS * SLICE)
            gone = inside & (row - c0 >= W)
            cross = tl.where(there, w * 2.0 * c * ia * ib, 0.0)
            cross_box = _exchange(cross_box, cross, fresh, old, inside, gone)
            if A:
                square = tl.where(there, -w * ncc * ia, 0.0)
                linear = -(cross * tb + 2.0 * square * ta) * INVERSE_N
                square_box = _exchange(square_box, square, fresh + SLICE, old + SLICE, inside, gone)
                linear_box = _exchange(linear_box, linear, fresh + 2 * SLICE, old + 2 * SLICE, inside, gone)
            if B:
                square_b = tl.where(there, -w * ncc * ib, 0.0)
                linear_b = -(cross * ta + 2.0 * square_b * tb) * INVERSE_N
                square_b_box = _exchange(square_b_box, square_b, fresh + (KINDS - 2) * SLICE, old + (KINDS - 2) * SLICE, inside, gone)
                linear_b_box = _exchange(linear_b_box, linear_b, fresh + (KINDS - 1) * SLICE, old + (KINDS - 1) * SLICE, inside, gone)
            done = inside & (row - R >= j0) & (row - R < j0 + CHUNK) & (row - R < nj)
            out = boxes + at + (j - R) * nk
            tl.store(out, cross_box.to(WORK), mask=done)
            if A:
                tl.store(out + between, square_box.to(WORK), mask=done)
                tl.store(out + 2 * between, linear_box.to(WORK), mask=done)
            if B:
                tl.store(out + (KINDS - 2) * between, square_b_box.to(WORK), mask=done)
                tl.store(out + (KINDS - 1) * between, linear_b_box.to(WORK), mask=done)
    tl.store(partials + program, tl.sum(total))


@triton.jit
def _tap(box, at, k, n, inside):
    return tl.load(box + at, mask=inside & (k >= 0) & (k < n), other=0.0)


@triton.jit
def _along_k(box, at, k, n, inside, W: tl.constexpr):
    """Sum along k of one kind of adjoints; the same bits every time, so that what entered can leave."""
    total = _tap(box, at, k, n, inside)
    if W <= 15:
        for t in tl.static_range(1, W // 2 + 1):
            total += _tap(box, at - t, k - t, n, inside) + _tap(box, at + t, k + t, n, inside)
    else:
        for t in range(1, W // 2 + 1):
            total += _tap(box, at - t, k - t, n, inside) + _tap(box, at + t, k + t, n, inside)
    return total.to(tl.float64)


@triton.jit
def _gradient(a, b, shifts_a, shifts_b, boxes, scale, grad_a, grad_b, volumes, ni, nj, nk,
              WI: tl.constexpr, W: tl.constexpr, CHUNK: tl.constexpr, A: tl.constexpr, B: tl.constexpr, WORK: tl.constexpr,
              OFFSET: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    KINDS: tl.constexpr = 5 if A and B else 3
    volume, i0, j, k, inside = _march(ni, nj, nk, CHUNK, BLOCK_J, BLOCK_K)
    shift_a, shift_b, factor = tl.load(shifts_a + volume), tl.load(shifts_b + volume), tl.load(scale)
    plane = tl.cast(nj, OFFSET) * nk
    at = tl.cast(volume, OFFSET) * ni * plane + tl.cast(j, OFFSET) * nk + k
    between = tl.cast(volumes, OFFSET) * ni * plane
    of_a, of_b = boxes + between, boxes + (KINDS - 2) * between
    cross = tl.zeros(inside.shape, tl.float64)
    square, linear, square_b, linear_b = cross, cross, cross, cross
    for i in range(i0 - WI // 2 * 2, tl.minimum(i0 + CHUNK, ni)):
        entering, leaving = i + WI // 2, i - WI // 2 - 1
        if (entering >= 0) & (entering < ni):
            here = at + entering * plane
            cross += _along_k(boxes, here, k, nk, inside, W)
            if A:
                square += _along_k(of_a, here, k, nk, inside, W)
                linear += _along_k(of_a + between, here, k, nk, inside, W)
            if B:
                square_b += _along_k(of_b, here, k, nk, inside, W)
                linear_b += _along_k(of_b + between, here, k, nk, inside, W)
        if (leaving >= 0) & (i > i0):
            here = at + leaving * plane
            cross -= _along_k(boxes, here, k, nk, inside, W)
            if A:
                square -= _along_k(of_a, here, k, nk, inside, W)
                linear -= _along_k(of_a + between, here, k, nk, inside, W)
            if B:
                square_b -= _along_k(of_b, here, k, nk, inside, W)
                linear_b -= _along_k(of_b + between, here, k, nk, inside, W)
        if i >= i0:
            here = at + i * plane
            x = tl.load(a + here, mask=inside, other=0.0).to(WORK) - shift_a
            y = tl.load(b + here, mask=inside, other=0.0).to(WORK) - shift_b
            if A:
                value = linear.to(WORK) + 2.0 * x * square.to(WORK) + y * cross.to(WORK)
                tl.store(grad_a + here, (factor * value).to(grad_a.dtype.element_ty), mask=inside)
            if B:
                value = linear_b.to(WORK) + 2.0 * y * square_b.to(WORK) + x * cross.to(WORK)
                tl.store(grad_b + here, (factor * value).to(grad_b.dtype.element_ty), mask=inside)


def _shifts(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """About the mean of each of the volumes (V, i, j, k): of some planes, since it need not be exact; 0 where NaN hides it."""
    some = x[:, :: max(1, x.shape[1] // 16)] if x.shape[1] > 1 else x[:, :, :: max(1, x.shape[2] // 16)]
    return some.mean((1, 2, 3), dtype=dtype).nan_to_num(0.0, 0.0, 0.0)


def sweep(a, b, *, window, eps, weight=None, per_weight=1, scale=None, ncc_map=None, grad_a=None, grad_b=None) -> torch.Tensor:
    """Partial sums of weight * ncc; fills the map and the gradients (times the tensor `scale`) that are given.

    Images, map and gradients are contiguous (B, C, *spatial); weight has one volume for `per_weight` of them.
    """
    dims, dtype = a.dim() - 2, launch.work_dtype(a, b)
    ni, nj, nk = size = launch.sizes(a.shape[2:])
    volumes = a.shape[0] * a.shape[1]
    if a.numel() == 0:
        return a.new_zeros(1, dtype=dtype)
    wanted = {"A": grad_a is not None, "B": grad_b is not None}
    kinds = (0, 3, 5)[sum(wanted.values())]
    group = min(volumes, max(1, GROUP // (ni * nj * nk)))
    windows = {"WI": window if dims == 3 else 1, "W": window}
    planes, rows = max(PLANES, 2 * window) if dims == 3 else 1, max(ROWS, 2 * window)

    def programs(n: int) -> int:  # of _windows for n volumes
        return launch.blocks(n * ni, BLOCK_OF_WINDOWS["BLOCK_I"]) * launch.blocks(nj, rows) * launch.blocks(nk, BLOCK_OF_WINDOWS["BLOCK_K"])

    sums, boxes = a.new_empty(5, group, *size, dtype=dtype), a.new_empty(kinds, group, *size, dtype=dtype)
    ring = a.new_empty(programs(group) * (window + 1) * kinds * math.prod(BLOCK_OF_WINDOWS.values()), dtype=dtype)
    types = {"WORK": launch.work_type(a, b), "OFFSET": launch.offset_type(sums, a)}
    x, y = (t.view(volumes, *size) for t in (a, b))
    shifts = [_shifts(t, dtype) for t in (x, y)]
    targets = [None if t is None else t.view(volumes, *size) for t in (ncc_map, grad_a, grad_b)]
    partials = []
    for v in range(0, volumes, group):
        n = min(group, volumes - v)
        part = slice(v, v + n)
        of, images, moments = (n, *size), (x[part], y[part]), [s[part] for s in shifts]
        map_of, *gradients_of = (sums if t is None else t[part] for t in targets)
        partials.append(a.new_empty(programs(n), dtype=dtype))
        marchers = tiles.count(n, (launch.blocks(ni, planes), nj, nk), *BLOCK.values())
        launch.run(_plane_sums, marchers, *images, *moments, sums, *of, **windows, CHUNK=planes, **types, **BLOCK)
        launch.run(
            _windows, programs(n), sums, sums if weight is None else weight, *moments, partials[-1], map_of, ring, boxes, v, per_weight,
            *of, eps, **windows, CHUNK=rows, WEIGHTED=weight is not None, MAP=ncc_map is not None, **wanted, **types, **BLOCK_OF_WINDOWS,
        )  # fmt: skip
        if kinds:
            launch.run(
                _gradient, marchers, *images, *moments, boxes, scale, *gradients_of, *of,
                **windows, CHUNK=planes, **wanted, **types, **BLOCK,
            )  # fmt: skip
    return torch.cat(partials)


def lncc(a, b, weight, window, eps, need_a, need_b):
    x, y, dtype = a.contiguous(), b.contiguous(), launch.work_dtype(a, b)
    grads = [x.new_empty(x.shape if need else 0, dtype=dtype) for need in (need_a, need_b)]
    w, divisor, scale = mean_over(a, weight, dtype)
    partials = sweep(
        x, y, window=window, eps=eps, weight=w, per_weight=a.shape[1], scale=scale,
        grad_a=grads[0] if need_a else None, grad_b=grads[1] if need_b else None,
    )  # fmt: skip
    return (partials.sum(dtype=torch.float64) / divisor).to(dtype), *grads


def lncc_map(a, b, window, eps):
    out = a.new_empty(a.shape)
    sweep(a.contiguous(), b.contiguous(), window=window, eps=eps, ncc_map=out)
    return out


def lncc_map_backward(grad, a, b, window, eps, need_a, need_b):
    grads = [x.new_empty(x.shape if need else 0) for x, need in ((a, need_a), (b, need_b))]
    one = torch.ones((), dtype=launch.work_dtype(a, b), device=a.device)
    sweep(
        a.contiguous(), b.contiguous(), window=window, eps=eps, weight=grad.contiguous(), scale=one,
        grad_a=grads[0] if need_a else None, grad_b=grads[1] if need_b else None,
    )  # fmt: skip
    return tuple(grads)
