"""The inverse of a displacement in Triton: v <- -u(y + v).

The iteration of a voxel reads only u, so all its rounds run in one program: bytes per voxel in 3-D with 4-byte numbers are 12 (u) + 12 (v),
once; the samples of later rounds lie where those of earlier ones did, and come from L1 and L2. A program ends when its 256 voxels have
settled, which in one part of a field takes other rounds than in another: tiles are small so that few voxels wait for others.
"""

import torch
import triton
import triton.language as tl

from regkit.kernels import launch, tiles
from regkit.kernels.field import components, field_at, store_components


@triton.jit
def _invert(u, out, ni, nj, nk, iterations, tolerance,
            D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    voxels = tl.cast(ni, OFFSET) * nj * nk
    volume = tl.cast(b, OFFSET) * D * voxels
    at = volume + (tl.cast(i, OFFSET) * nj + j) * nk + k
    vi, vj, vk = components(u, at, voxels, inside, D, WORK)
    vi, vj, vk = -vi, -vj, -vk
    moving = inside
    left = iterations
    while left > 0:
        ui, uj, uk = field_at(u + volume, i + vi, j + vj, k + vk, moving, ni, nj, nk, D, WORK, OFFSET)
        change = tl.maximum(tl.abs(ui + vi), tl.maximum(tl.abs(uj + vj), tl.abs(uk + vk)))
        total = ui + uj + uk
        vi, vj, vk = tl.where(moving, -ui, vi), tl.where(moving, -uj, vj), tl.where(moving, -uk, vk)
        moving = moving & (change > tolerance) & (total == total)  # NaN ends a voxel
        left = tl.where(tl.max(tl.max(moving.to(tl.int32), 1), 0) > 0, left - 1, 0)
    store_components(out, at, voxels, vi, vj, vk, inside, D)


def invert(displacement, iterations, tolerance):
    u = displacement.contiguous()
    out, spatial = torch.empty_like(u), launch.sizes(u.shape[2:])
    launch.run(
        _invert, tiles.count(u.shape[0], spatial), u, out, *spatial, iterations, tolerance, D=u.shape[1], WORK=launch.work_type(u),
        OFFSET=launch.offset_type(u), BLOCK_J=tiles.BLOCK_J, BLOCK_K=tiles.BLOCK_K,
    )  # fmt: skip
    return out
