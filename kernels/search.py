"""The search of the correlation family: displacements of a cube, clamped positions, features as rows of channels, similarities.

A program takes BLOCK_N keypoints and BLOCK_L displacements at a time and computes their similarities (BLOCK_N, BLOCK_L) from the moving
features (BLOCK_N, BLOCK_L, BLOCK_C) and the fixed ones (BLOCK_N, 1, BLOCK_C). Features are read channels-last, so that a voxel's channels
are one contiguous piece (24 bytes for 12 channels of float16: one or two of memory's sectors), threads load several channels at once and
those that share a voxel sum by shuffles, once after all samples of the patch. Channels are padded to a power of two by masks; more than
BLOCK_C of them are taken in turn. The cube of a keypoint is read again for every sample of the patch, from L1 and L2.

Displacements are numbered with the first axis slowest. Images of 2 axes have one plane, and positions of D = 2 numbers.
"""

import torch
import triton
import triton.language as tl

from regkit.kernels import launch

SSD, DOT, COSINE = (tl.constexpr(metric) for metric in range(3))
COSINE_EPS = tl.constexpr(1e-6)
# Features a program holds at a time: with 4 warps 16 numbers a thread, which leaves registers for addresses and loads in flight.
TILE = 2048
MOST_CHANNELS = 64
MOST_POSITIONS = 512  # of few channels: addresses and offsets take more registers than features there


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
    """Voxels (i, j, k) of points; positions: int64 (points, D), which ops keep within 2^30."""
    at = positions + point.to(tl.int64) * D
    k = tl.load(at + (D - 1)).to(tl.int32)
    j = tl.load(at + (D - 2)).to(tl.int32)
    if D == 3:
        i = tl.load(at).to(tl.int32)
    else:
        i = j * 0
    return i, j, k


@triton.jit
def voxel(i, j, k, ni, nj, nk, OFFSET: tl.constexpr):
    """Offset of the voxel nearest to (i, j, k) in a volume of ni nj nk voxels."""
    i = tl.minimum(tl.maximum(i, 0), ni - 1).to(OFFSET)
    return (i * nj + tl.minimum(tl.maximum(j, 0), nj - 1)) * nk + tl.minimum(tl.maximum(k, 0), nk - 1)


@triton.jit
def similarity(fixed, moving, keypoints, centers, point, index, points, stride, patch_stride, fi, fj, fk, mi, mj, mk,
               RADIUS: tl.constexpr, PATCH: tl.constexpr, METRIC: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
               D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr):  # fmt: skip
    """Of points (BLOCK_N,) at displacements number `index` (BLOCK_L,): similarities (BLOCK_N, BLOCK_L), and for cosine |F| (BLOCK_N, 1),
    |M| (BLOCK_N, BLOCK_L). All points must exist; displacements beyond the cube give numbers without a meaning."""
    P: tl.constexpr = (2 * PATCH + 1) ** D
    b = (point // points).to(OFFSET)
    di, dj, dk = cube(index, RADIUS, D)
    exists = (index < (2 * RADIUS + 1) ** D)[None, :, None]
    xi, xj, xk = position(keypoints, point, D)
    yi, yj, yk = position(centers, point, D)
    yi, yj, yk = (
        yi[:, None] + (di * stride)[None, :], yj[:, None] + (dj * stride)[None, :], yk[:, None] + (dk * stride)[None, :],
    )  # fmt: skip
    first_fixed, first_moving = b * fi * fj * fk, (b * mi * mj * mk)[:, None]
    total = tl.zeros([point.shape[0], index.shape[0], BLOCK_C], WORK)
    square_fixed, square_moving = tl.zeros([point.shape[0], 1, BLOCK_C], WORK), tl.zeros_like(total)
    for p in range(P):
        pi, pj, pk = cube(p, PATCH, D)
        pi, pj, pk = pi * patch_stride, pj * patch_stride, pk * patch_stride
        at_fixed = first_fixed + voxel(xi + pi, xj + pj, xk + pk, fi, fj, fk, OFFSET)
        at_moving = first_moving + voxel(yi + pi, yj + pj, yk + pk, mi, mj, mk, OFFSET)
        for c0 in range(0, C, BLOCK_C):
            c = (c0 + tl.arange(0, BLOCK_C))[None, None, :]
            f = tl.load(fixed + at_fixed[:, None, None] * C + c, mask=c < C, other=0).to(WORK)
            m = tl.load(moving + at_moving[:, :, None] * C + c, mask=exists & (c < C), other=0).to(WORK)
            if METRIC == SSD:
                total += (f - m) * (f - m)
            else:
                total += f * m
            if METRIC == COSINE:
                square_fixed += f * f
                square_moving += m * m
    sums = tl.sum(total, 2)
    norm_fixed, norm_moving = tl.sqrt(tl.sum(square_fixed, 2)), tl.sqrt(tl.sum(square_moving, 2))
    if METRIC == COSINE:
        sums /= norm_fixed * norm_moving + COSINE_EPS
    else:
        sums /= P
    return sums, norm_fixed, norm_moving


def rows(features: torch.Tensor) -> torch.Tensor:
    """(B, C, *spatial) as contiguous (B, *spatial, C); copies only what is not channels-last already."""
    return features.movedim(1, -1).contiguous()


def images(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The inverse of rows, contiguous and of another dtype, in one copy."""
    return torch.empty((rows.shape[0], rows.shape[-1], *rows.shape[1:-1]), dtype=dtype, device=rows.device).copy_(rows.movedim(-1, 1))


def power_of_2(least: int, length: int, most: int) -> int:
    """A power of two that covers `length`, within two powers of two."""
    return min(max(triton.next_power_of_2(length), least), most)


class Search:
    """Inputs as the kernels take them, and the options they share. others: more tensors that decide the type to compute in."""

    def __init__(self, fixed, moving, keypoints, centers, radius, stride, patch_radius, patch_stride, metric, *others):
        self.fixed, self.moving = rows(fixed), rows(moving)
        self.keypoints, self.centers = keypoints.contiguous(), centers.contiguous()
        self.shape, self.dims = tuple(keypoints.shape[:2]), keypoints.shape[2]
        self.radius, self.stride, self.patch_radius, self.patch_stride, self.metric = radius, stride, patch_radius, patch_stride, metric
        self.displacements, self.samples = (2 * radius + 1) ** self.dims, (2 * patch_radius + 1) ** self.dims
        self.dtype = launch.work_dtype(fixed, moving, *others)
        channels = fixed.shape[1]
        self.block_c = power_of_2(1, max(channels, 1), MOST_CHANNELS)
        self.block_l = self.block(self.displacements)
        self.spatial = *launch.sizes(fixed.shape[2:]), *launch.sizes(moving.shape[2:])
        self.options = {
            "RADIUS": radius, "PATCH": patch_radius, "METRIC": metric, "C": channels, "BLOCK_C": self.block_c,
            "D": self.dims, "WORK": launch.work_type(fixed, moving, *others),
        }  # fmt: skip

    @property
    def points(self) -> int:
        return self.shape[0] * self.shape[1]

    def block(self, length: int) -> int:
        """How many of `length` positions in the moving features a program takes at a time."""
        return power_of_2(16, length, min(max(TILE // self.block_c, 16), MOST_POSITIONS))

    def tile(self) -> dict[str, int]:
        """Options of programs that go through displacements; keypoints of small cubes share a program, so that its lanes are busy."""
        return {"BLOCK_L": self.block_l, "BLOCK_N": max(min(TILE // self.block_c, MOST_POSITIONS) // self.block_l, 1)}

    def tile_of_points(self) -> dict[str, int]:
        """Options of programs that share a table over displacements between 16 keypoints, by tl.dot, whose sides are 16 at least."""
        return {"BLOCK_N": 16, "BLOCK_L": 16, "BLOCK_C": min(self.block_c, 16), "num_warps": 8}

    def new(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.fixed.device)

    def run(self, kernel, programs: int, *args, offsets: tuple = (), **options) -> None:
        """kernel(fixed, moving, keypoints, centers, *args, points of an image, sizes); offsets: more tensors that it indexes."""
        launch.run(
            kernel, programs, self.fixed, self.moving, self.keypoints, self.centers, *args, self.shape[1], *self.spatial,
            OFFSET=launch.offset_type(self.fixed, self.moving, *offsets), **self.options | options,
        )  # fmt: skip
