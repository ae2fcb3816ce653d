"""embed_displacements in Triton: similarities (search.py) times a basis (L, columns), block by block, without the map.

Forward: a program takes 16 keypoints, a share of the cube, and up to 64 columns: a tile of similarities (16, BLOCK_L), then tl.dot with its
rows of the basis, which 16 keypoints share: L columns s bytes from L2 for each 16 of them (2.4 MB for 21^3 displacements and 64
columns of float32). Keypoints alone are too few programs, so shares of the cube are summed by a second step, in a fixed order.
Gradient by the basis: the transposed product, similarities^T grad, with shares of the keypoints.
Products are of float32 ("ieee"): tensor cores would round the similarities to 11 bits.
"""

import triton
import triton.language as tl

from regkit.kernels import launch
from regkit.kernels.correlate_gradient import OF_EMBEDDED, feature_gradients
from regkit.kernels.search import Search, power_of_2, similarity

PROGRAMS = 1024  # some for each multiprocessor of a large GPU
MOST_SHARES = 32


@triton.jit
def _embed(fixed, moving, keypoints, centers, basis, out, count, columns, shares, per_share, stride, patch_stride,
           points, fi, fj, fk, mi, mj, mk,
           BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_L: tl.constexpr, RADIUS: tl.constexpr, PATCH: tl.constexpr,
           METRIC: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr, D: tl.constexpr, WORK: tl.constexpr,
           OFFSET: tl.constexpr):  # fmt: skip
    """out (shares, count, columns)."""
    L: tl.constexpr = (2 * RADIUS + 1) ** D
    blocks_p = tl.cdiv(columns, BLOCK_P)
    p = (tl.program_id(0) % blocks_p * BLOCK_P + tl.arange(0, BLOCK_P))[None, :]
    share = tl.program_id(0) // blocks_p % shares
    row = tl.program_id(0) // (blocks_p * shares) * BLOCK_N + tl.arange(0, BLOCK_N)
    point = tl.minimum(row, count - 1)
    total = tl.zeros([BLOCK_N, BLOCK_P], WORK)
    for d0 in range(share * per_share, tl.minimum((share + 1) * per_share, L), BLOCK_L):
        index = d0 + tl.arange(0, BLOCK_L)
        value, _, _ = similarity(
            fixed, moving, keypoints, centers, point, index, points, stride, patch_stride, fi, fj, fk, mi, mj, mk,
            RADIUS, PATCH, METRIC, C, BLOCK_C, D, WORK, OFFSET,
        )  # fmt: skip
        e = tl.load(basis + index[:, None].to(OFFSET) * columns + p, mask=(index < L)[:, None] & (p < columns), other=0.0).to(WORK)
        value = tl.where((index < L)[None, :], value, 0.0)
        total = tl.dot(value, e, total, input_precision="ieee", out_dtype=WORK)
    to = (share.to(OFFSET) * count + row[:, None]) * columns + p
    tl.store(out + to, total, mask=(row < count)[:, None] & (p < columns))


@triton.jit
def _grad_basis(fixed, moving, keypoints, centers, grad, out, count, columns, shares, per_share, stride, patch_stride,
                points, fi, fj, fk, mi, mj, mk,
                BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_L: tl.constexpr, RADIUS: tl.constexpr, PATCH: tl.constexpr,
                METRIC: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr, D: tl.constexpr, WORK: tl.constexpr,
                OFFSET: tl.constexpr):  # fmt: skip
    """out (shares, L, columns)."""
    L: tl.constexpr = (2 * RADIUS + 1) ** D
    blocks_p = tl.cdiv(columns, BLOCK_P)
    p = (tl.program_id(0) % blocks_p * BLOCK_P + tl.arange(0, BLOCK_P))[None, :]
    share = tl.program_id(0) // blocks_p % shares
    index = tl.program_id(0) // (blocks_p * shares) * BLOCK_L + tl.arange(0, BLOCK_L)
    total = tl.zeros([BLOCK_L, BLOCK_P], WORK)
    for n0 in range(share * per_share, tl.minimum((share + 1) * per_share, count), BLOCK_N):
        row = n0 + tl.arange(0, BLOCK_N)
        point = tl.minimum(row, count - 1)
        value, _, _ = similarity(
            fixed, moving, keypoints, centers, point, index, points, stride, patch_stride, fi, fj, fk, mi, mj, mk,
            RADIUS, PATCH, METRIC, C, BLOCK_C, D, WORK, OFFSET,
        )  # fmt: skip
        g = tl.load(grad + row[:, None].to(OFFSET) * columns + p, mask=(row < count)[:, None] & (p < columns), other=0.0).to(WORK)
        value = tl.where((row < count)[:, None], value, 0.0)
        total = tl.dot(tl.trans(value), g, total, input_precision="ieee", out_dtype=WORK)
    to = (share.to(OFFSET) * L + index[:, None]) * columns + p
    tl.store(out + to, total, mask=(index < L)[:, None] & (p < columns))


def _run(kernel, s: Search, tensor, rows: int, row_block: str, length: int, length_block: str, columns: int):
    """kernel, which sums over `length` in shares for each of `rows`; the sum (rows, columns). The blocks are named by their options."""
    options = s.tile_of_points() | {"BLOCK_P": power_of_2(16, columns, 64)}
    programs = launch.blocks(rows, options[row_block]) * launch.blocks(columns, options["BLOCK_P"])
    steps = launch.blocks(length, options[length_block])
    shares = min(max(PROGRAMS // max(programs, 1), 1), MOST_SHARES, max(steps, 1))
    per_share = launch.blocks(steps, shares) * options[length_block]
    out = s.new(shares, rows, columns)
    s.run(
        kernel, programs * shares, tensor, out, s.points, columns, shares, per_share, s.stride, s.patch_stride,
        offsets=(tensor, out), **options,
    )  # fmt: skip
    return out.sum(0)


def embed_displacements(fixed, moving, keypoints, centers, basis, *search):
    s = Search(fixed, moving, keypoints, centers, *search, basis)
    out = _run(_embed, s, basis.contiguous(), s.points, "BLOCK_N", s.displacements, "BLOCK_L", basis.shape[1])
    return out.view(*s.shape, basis.shape[1]).to(basis.dtype)


def embed_displacements_backward(grad, fixed, moving, keypoints, centers, basis, *search_and_needs):
    *search, need_fixed, need_moving, need_basis = search_and_needs
    s = Search(fixed, moving, keypoints, centers, *search, basis)
    grad, basis = grad.contiguous(), basis.contiguous()
    by_features = feature_gradients(s, fixed, moving, need_fixed, need_moving, OF_EMBEDDED, grad, basis=basis)
    if not need_basis:
        return *by_features, basis.new_empty(0)
    by_basis = _run(_grad_basis, s, grad, s.displacements, "BLOCK_L", s.points, "BLOCK_N", basis.shape[1])
    return *by_features, by_basis.to(basis.dtype)
