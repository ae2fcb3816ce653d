"""Which voxels a program works on: BLOCK_J x BLOCK_K voxels of one plane i of one volume b.

Tiles are numbered in one row, k fastest, so that only whole programs divide, never single voxels, and grids have one axis (its limit is
2^31, that of the others 65535). Rows of 32 along k make each warp's loads one line of memory; a tile of several rows keeps the neighbours
that samples share in L1. Images of 2 axes have one plane.
"""

import triton
import triton.language as tl

from regkit.kernels import launch

BLOCK_J, BLOCK_K = 8, 32


def count(volumes: int, spatial: tuple[int, ...], block_j: int = BLOCK_J, block_k: int = BLOCK_K) -> int:
    """Number of programs for `volumes` volumes of (ni, nj, nk) voxels."""
    ni, nj, nk = launch.sizes(spatial)
    return volumes * ni * launch.blocks(nj, block_j) * launch.blocks(nk, block_k)


@triton.jit
def tile(ni, nj, nk, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):
    """b, i (scalars), j (BLOCK_J, 1), k (1, BLOCK_K), and which of those voxels exist (BLOCK_J, BLOCK_K)."""
    tiles_k = tl.cdiv(nk, BLOCK_K)
    tiles_j = tl.cdiv(nj, BLOCK_J)
    program = tl.program_id(0)
    column = program % tiles_k
    row = (program // tiles_k) % tiles_j
    plane = program // (tiles_k * tiles_j)
    j = row * BLOCK_J + tl.arange(0, BLOCK_J)[:, None]
    k = column * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    return plane // ni, plane % ni, j, k, (j < nj) & (k < nk)
