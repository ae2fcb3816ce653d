"""correlate_dense and its gradients in Triton: every voxel with the neighbourhood of the same voxel in another feature map.

Features are read channels-last (search.py), so that a neighbour is one contiguous piece whatever the shift: rows shifted along k would
straddle two lines of memory at each load. A program takes a tile of BLOCK_J x BLOCK_K voxels with their channels in registers and goes
through displacements in order of their neighbours in memory, first axis slowest; those of a tile share nearly all of them in L1.

Forward, per voxel: reads 2 C s bytes, writes L s; 2-3 C L FLOP and C L s bytes from L1, which bound it for more than a few channels, the
writing of the map for fewer. Programs share out the planes (2-D: rows) of the cube, so that coarse levels of a pyramid fill a GPU.
Gradients, in gather form without atomics: by a, sum_d g_d(x) b(x + d); by b, sum_d g_d(y - d) a(y - d): one kernel, the second with d
turned round and g read there. Per voxel: reads L s + 2 C s bytes, writes C s.
"""

import torch
import triton
import triton.language as tl

from regkit.kernels import launch, tiles
from regkit.kernels.search import MOST_CHANNELS, SSD, TILE, cube, power_of_2, rows


@triton.jit
def _shifted(i, j, k, di, dj, dk, ni, nj, nk, inside):
    """How far the neighbour at displacement (di, dj, dk) is in memory, and which of the voxels have it."""
    i, j, k = i + di + 0 * j, j + dj, k + dk
    return (di * nj + dj) * nk + dk, inside & (i >= 0) & (i < ni) & (j >= 0) & (j < nj) & (k >= 0) & (k < nk)


@triton.jit
def _forward(a, b, out, stride, ni, nj, nk,
             RADIUS: tl.constexpr, METRIC: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr, D: tl.constexpr, WORK: tl.constexpr,
             OFFSET: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    SIDE: tl.constexpr = 2 * RADIUS + 1
    SLAB: tl.constexpr = SIDE ** (D - 1)
    volume, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    voxels = tl.cast(ni, OFFSET) * nj * nk
    within = (tl.cast(i, OFFSET) * nj + j) * nk + k
    at = volume.to(OFFSET) * voxels + within
    c = tl.arange(0, BLOCK_C)[None, None, :]
    if C <= BLOCK_C:
        x = tl.load(a + at[:, :, None] * C + c, mask=inside[:, :, None] & (c < C), other=0).to(WORK)
    for d in range(SLAB):
        index = tl.program_id(1) * SLAB + d
        di, dj, dk = cube(index, RADIUS, D)
        shift, there = _shifted(i, j, k, di * stride, dj * stride, dk * stride, ni, nj, nk, inside)
        total = tl.zeros([BLOCK_J, BLOCK_K, BLOCK_C], WORK)
        for c0 in range(0, C, BLOCK_C):
            if C > BLOCK_C:
                x = tl.load(a + at[:, :, None] * C + c0 + c, mask=inside[:, :, None] & (c0 + c < C), other=0).to(WORK)
            y = tl.load(b + (at + shift)[:, :, None] * C + c0 + c, mask=there[:, :, None] & (c0 + c < C), other=0).to(WORK)
            if METRIC == SSD:
                total += (x - y) * (x - y)
            else:
                total += x * y
        value = tl.sum(total, 2) / C
        tl.store(out + (volume.to(OFFSET) * (SLAB * SIDE) + index) * voxels + within, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(grad, here, other, out, stride, ni, nj, nk,
              TURNED: tl.constexpr, RADIUS: tl.constexpr, METRIC: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
              D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """The gradient by `here`, b if TURNED and else a; `other` is the other map. out: (B, C, *spatial)."""
    L: tl.constexpr = (2 * RADIUS + 1) ** D
    volume, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    voxels = tl.cast(ni, OFFSET) * nj * nk
    within = (tl.cast(i, OFFSET) * nj + j) * nk + k
    at = volume.to(OFFSET) * voxels + within
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c = channel[None, None, :]
    x = tl.load(here + at[:, :, None] * C + c, mask=inside[:, :, None] & (c < C), other=0).to(WORK)
    total = tl.zeros([BLOCK_J, BLOCK_K, BLOCK_C], WORK)
    weights = grad + volume.to(OFFSET) * L * voxels + within
    for d in range(L):
        di, dj, dk = cube(d, RADIUS, D)
        if TURNED:
            di, dj, dk = -di, -dj, -dk
        shift, there = _shifted(i, j, k, di * stride, dj * stride, dk * stride, ni, nj, nk, inside)
        if TURNED:
            g = tl.load(weights + d * voxels + shift, mask=there, other=0).to(WORK)
        else:
            g = tl.load(weights + d * voxels, mask=inside, other=0).to(WORK)
        y = tl.load(other + (at + shift)[:, :, None] * C + c, mask=there[:, :, None] & (c < C), other=0).to(WORK)
        if METRIC == SSD:
            total += g[:, :, None] * (x - y)
        else:
            total += g[:, :, None] * y
    total *= (2 if METRIC == SSD else 1) / C
    to = out + (volume.to(OFFSET) * C + c) * voxels + within[:, :, None]
    tl.store(to, total.to(out.dtype.element_ty), mask=inside[:, :, None] & (c < C))


def _run(kernel, a: torch.Tensor, programs_1: int, *tensors: torch.Tensor, stride: int, work, **options) -> None:
    """The kernel on all tiles of the voxels of a (B, C, *spatial), programs_1 of them each."""
    channels = a.shape[1]
    block_c = power_of_2(1, channels, MOST_CHANNELS)
    tile = min(TILE // block_c, 512)
    block_k = min(tile // 8, 32) if tile >= 64 else 8
    spatial = launch.sizes(a.shape[2:])
    launch.run(
        kernel, (tiles.count(a.shape[0], spatial, tile // block_k, block_k), programs_1), *tensors, stride, *spatial,
        C=channels, BLOCK_C=block_c, D=a.dim() - 2, WORK=work, OFFSET=launch.offset_type(*tensors),
        BLOCK_J=tile // block_k, BLOCK_K=block_k, **options,
    )  # fmt: skip


def correlate_dense(a, b, radius, stride, metric):
    side = 2 * radius + 1
    out = a.new_zeros if not a.shape[1] else a.new_empty
    out = out((a.shape[0], side ** (a.dim() - 2), *a.shape[2:]))
    if a.shape[1]:
        _run(_forward, a, side, rows(a), rows(b), out, stride=stride, work=launch.work_type(a, b), RADIUS=radius, METRIC=metric)
    return out


def correlate_dense_backward(grad, a, b, radius, stride, metric, need_a, need_b):
    g, x, y = grad.contiguous(), rows(a), rows(b)
    options = {"stride": stride, "work": launch.work_type(a, b), "RADIUS": radius, "METRIC": metric}
    blocks = launch.blocks(a.shape[1], power_of_2(1, a.shape[1], MOST_CHANNELS))
    by_a, by_b = a.new_empty(a.shape if need_a else 0), b.new_empty(b.shape if need_b else 0)
    if need_a:
        _run(_backward, a, blocks, g, x, y, by_a, TURNED=False, **options)
    if need_b:
        _run(_backward, b, blocks, g, y, x, by_b, TURNED=True, **options)
    return by_a, by_b
