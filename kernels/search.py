"""What the kernels of the correlation family share: displacements of a search cube, clamped voxels, features as rows of channels.

A cube of side 2 radius + 1 is numbered with its first axis slowest. Features are read channels-last, (voxels, channels): a program then takes
the channels of a voxel in one contiguous piece, 24 bytes for 12 channels of float16 (two or three memory sectors for a gather of two
neighbours), and threads that share a voxel sum over channels by shuffles. Channels beyond BLOCK_C, and those that fill it up to a power of
two, are handled by a loop over chunks and by masks. 2-D features are 3-D ones of one plane, and their positions and displacements have D = 2
numbers.
"""

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from regkit.kernels import launch

SSD, DOT, COSINE = (tl.constexpr(metric) for metric in range(3))
COSINE_EPS = tl.constexpr(1e-6)
# Features a program holds at a time: with 4 warps 16 numbers a thread, which leaves registers for addresses and loads in flight.
TILE = 2048


def rows(features: torch.Tensor) -> torch.Tensor:
    """(B, C, *spatial) as contiguous (B, *spatial, C); copies only what is not channels-last already."""
    return features.movedim(1, -1).contiguous()


def images(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The inverse of rows, contiguous and of another dtype, in one copy."""
    return torch.empty((rows.shape[0], rows.shape[-1], *rows.shape[1:-1]), dtype=dtype, device=rows.device).copy_(rows.movedim(-1, 1))


class Scatter:
    """Sums of a gradient by features, as rows: of the work type, or in deterministic mode in 64-bit fixed point.

    bound(): what no summand exceeds, a tensor without axes; count: how many there may be for one voxel. Only deterministic mode needs them.
    """

    def __init__(self, rows: torch.Tensor, dtype: torch.dtype, bound: Callable[[], torch.Tensor], count: int):
        self.fixed = launch.deterministic()
        self.sums = torch.zeros(rows.shape, dtype=torch.int64 if self.fixed else dtype, device=rows.device)
        self.unit = launch.fixed_point_unit(bound(), count) if self.fixed and rows.numel() and count else None

    def images(self, dtype: torch.dtype) -> torch.Tensor:
        """The sums as contiguous (B, C, *spatial) of a dtype."""
        return images(self.sums if self.unit is None else self.sums * self.unit, dtype)


def channels(count: int) -> dict[str, int]:
    """Compile-time options C, BLOCK_C for features of `count` channels."""
    return {"C": count, "BLOCK_C": min(triton.next_power_of_2(max(count, 1)), 64)}


def block(length: int, block_c: int, tile: int = TILE) -> int:
    """How many of `length` displacements a program takes at a time, beside block_c channels."""
    return min(max(tile // block_c, 16), 256, triton.next_power_of_2(length))


@triton.jit
def cube(index, RADIUS: tl.constexpr, D: tl.constexpr):
    """Displacement number `index` of the cube {-RADIUS .. RADIUS}^D, as (i, j, k)."""
    SIDE: tl.constexpr = 2 * RADIUS + 1
    k = index % SIDE - RADIUS
    if D == 3:
        j = (index // SIDE) % SIDE - RADIUS
        i = index // (SIDE * SIDE) - RADIUS
    else:
        j = index // SIDE - RADIUS
        i = index * 0
    return i, j, k


@triton.jit
def position(positions, point, D: tl.constexpr):
    """Voxel (i, j, k) of one of the int64 positions (points, D), which ops keep within 2^30."""
    at = positions + point.to(tl.int64) * D
    k = tl.load(at + (D - 1)).to(tl.int32)
    j = tl.load(at + (D - 2)).to(tl.int32)
    if D == 3:
        i = tl.load(at).to(tl.int32)
    else:
        i = j * 0
    return i, j, k


@triton.jit
def clamped(x, n):
    return tl.minimum(tl.maximum(x, 0), n - 1)


@triton.jit
def voxel(i, j, k, ni, nj, nk, OFFSET: tl.constexpr):
    """Offset of the voxel nearest to (i, j, k) in a volume of ni nj nk voxels."""
    return (clamped(i, ni).to(OFFSET) * nj + clamped(j, nj)) * nk + clamped(k, nk)


@triton.jit
def load_rows(features, voxels, exists, c, C: tl.constexpr, WORK: tl.constexpr):
    """(BLOCK_V, BLOCK_C): channels c of the voxels (BLOCK_V,); 0 where a voxel or channel does not exist."""
    return tl.load(features + voxels[:, None] * C + c[None, :], mask=exists[:, None] & (c < C)[None, :], other=0).to(WORK)


@triton.jit
def load_row(features, voxel, c, C: tl.constexpr, WORK: tl.constexpr):
    """(BLOCK_C,): channels c of one voxel."""
    return tl.load(features + voxel * C + c, mask=c < C, other=0).to(WORK)
