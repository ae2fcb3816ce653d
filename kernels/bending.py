"""Mean squared second differences and their gradient in one pass, in Triton. Formulas: csrc/core/bending.h.

Bytes a value (float32): 4 read, and 4 written with the gradient. The stencil has 25 points: read anew for every plane, they would load L1
with 100 bytes a value, several times what memory must bring. So a program marches through planes i of a tile of 8 x 32 voxels and carries
in registers what the next planes need again: the field at i - 2 .. i + 2 and its differences along j and k at i - 1 .. i + 1. Each plane
then reads 13 points; only the four planes around a chunk are read twice.
A program adds its squares into one number of a buffer, which torch sums in float64: the same bits in every run.
"""

import torch
import triton
import triton.language as tl

from regkit.kernels import launch, tiles
from regkit.kernels.neighbours import at_or, number, second_difference, twist

PLANES = 16  # that a program marches through


@triton.jit
def _exists(x, n):
    """1 where the second difference at x exists, else 0; x is a block."""
    return tl.where((x > 0) & (x < n - 1), 1, 0)


@triton.jit
def _fourth_difference(low2, low, centre, high, high2, x, n):
    """The adjoint of the second differences along an axis, applied to them."""
    t = _exists(x, n) * second_difference(low, centre, high)
    t_low = _exists(x - 1, n) * second_difference(low2, low, centre)
    t_high = _exists(x + 1, n) * second_difference(centre, high, high2)
    return second_difference(t_low, t, t_high)


@triton.jit
def _plane(u, at, x, n, plane, inside, WORK: tl.constexpr):
    """Plane x of the field, the nearest there is; `at` is where plane 0 is."""
    return tl.load(u + at + tl.minimum(tl.maximum(x, 0), n - 1) * plane, mask=inside, other=0.0).to(WORK)


@triton.jit
def _across(u, at, x, n, plane, c, j, k, nj, nk, inside, WORK: tl.constexpr):
    """Second differences along j and k of plane x (the nearest there is), whose values are c; and the values at j + 1 and at k + 1."""
    here = u + at + tl.minimum(tl.maximum(x, 0), n - 1) * plane
    j_high, k_high = at_or(here + nk, inside & (j + 1 < nj), c, WORK), at_or(here + 1, inside & (k + 1 < nk), c, WORK)
    j_low, k_low = at_or(here - nk, inside & (j > 0), c, WORK), at_or(here - 1, inside & (k > 0), c, WORK)
    return second_difference(j_low, c, j_high), second_difference(k_low, c, k_high), j_low, j_high, k_low, k_high


@triton.jit
def _bending(u, gradient, partials, ni, nj, nk, pure_i: tl.float64, pure_j: tl.float64, pure_k: tl.float64, mixed_ij: tl.float64,
             mixed_ik: tl.float64, mixed_jk: tl.float64, scale: tl.float64, D: tl.constexpr, GRADIENT: tl.constexpr, PLANES: tl.constexpr,
             WORK: tl.constexpr, OFFSET: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    volume, chunk, j, k, inside = tiles.tile(tl.cdiv(ni, PLANES), nj, nk, BLOCK_J, BLOCK_K)
    w_jj, w_kk, w_jk = number(pure_j, WORK), number(pure_k, WORK), number(mixed_jk, WORK)
    w_ii, w_ij, w_ik = number(pure_i, WORK), number(mixed_ij, WORK), number(mixed_ik, WORK)
    plane = tl.cast(nj, OFFSET) * nk
    at = tl.cast(volume, OFFSET) * ni * plane + tl.cast(j, OFFSET) * nk + k
    begin = chunk * PLANES
    # Planes before and after: i - 2, i - 1, i, i + 1; the march reads i + 2.
    low2, low = _plane(u, at, begin - 2, ni, plane, inside, WORK), _plane(u, at, begin - 1, ni, plane, inside, WORK)
    c, high = _plane(u, at, begin, ni, plane, inside, WORK), _plane(u, at, begin + 1, ni, plane, inside, WORK)
    along_j, along_k, j_low, j_high, k_low, k_high = _across(u, at, begin, ni, plane, c, j, k, nj, nk, inside, WORK)
    low_along_j, low_along_k = along_j, along_k
    if D == 3:
        low_along_j, low_along_k, _a, _b, _c, _d = _across(u, at, begin - 1, ni, plane, low, j, k, nj, nk, inside, WORK)
    energy = 0 * c
    for i in range(begin, tl.minimum(begin + PLANES, ni)):
        row_i = i + 0 * j
        here = u + at + i * plane
        corner = at_or(here + nk + 1, inside & (j + 1 < nj) & (k + 1 < nk), tl.where(j + 1 < nj, j_high, k_high), WORK)
        m_jk = twist(c, k_high, j_high, corner)
        energy += w_jk * m_jk * m_jk + _exists(j, nj) * w_jj * along_j * along_j + _exists(k, nk) * w_kk * along_k * along_k
        if D == 3:
            high_along_j, high_along_k, next_j_low, next_j_high, next_k_low, next_k_high = _across(
                u, at, i + 1, ni, plane, high, j, k, nj, nk, inside, WORK
            )
            high2 = _plane(u, at, i + 2, ni, plane, inside, WORK)
            t = second_difference(low, c, high)
            m_ij, m_ik = twist(c, j_high, high, next_j_high), twist(c, k_high, high, next_k_high)
            energy += _exists(row_i, ni) * w_ii * t * t + w_ij * m_ij * m_ij + w_ik * m_ik * m_ik
        if GRADIENT:
            half = w_jj * _fourth_difference(
                at_or(here - 2 * nk, inside & (j > 1), j_low, WORK), j_low, c, j_high,
                at_or(here + 2 * nk, inside & (j + 2 < nj), j_high, WORK), j, nj,
            )  # fmt: skip
            half += w_kk * _fourth_difference(
                at_or(here - 2, inside & (k > 1), k_low, WORK), k_low, c, k_high,
                at_or(here + 2, inside & (k + 2 < nk), k_high, WORK), k, nk,
            )  # fmt: skip
            low_low = at_or(here - nk - 1, inside & (j > 0) & (k > 0), tl.where(j > 0, j_low, k_low), WORK)
            low_high = at_or(here - nk + 1, inside & (j > 0) & (k + 1 < nk), tl.where(j > 0, j_low, k_high), WORK)
            high_low = at_or(here + nk - 1, inside & (j + 1 < nj) & (k > 0), tl.where(j + 1 < nj, j_high, k_low), WORK)
            half += w_jk * second_difference(
                second_difference(low_low, j_low, low_high), along_k, second_difference(high_low, j_high, corner)
            )
            if D == 3:
                half += w_ii * _fourth_difference(low2, low, c, high, high2, row_i, ni)
                half += w_ij * second_difference(low_along_j, along_j, high_along_j)
                half += w_ik * second_difference(low_along_k, along_k, high_along_k)
            tl.store(gradient + at + i * plane, 2 * number(scale, WORK) * half, mask=inside)
        if D == 3:
            low2, low, c, high = low, c, high, high2
            low_along_j, along_j, low_along_k, along_k = along_j, high_along_j, along_k, high_along_k
            j_low, j_high, k_low, k_high = next_j_low, next_j_high, next_k_low, next_k_high
    tl.store(partials + tl.program_id(0), tl.sum(tl.where(inside, energy, 0.0)))


def bending_energy(u, spacing, need_gradient):
    x, dtype, count = u.contiguous(), launch.work_dtype(u), u.numel()
    gradient = x.new_empty(x.shape if need_gradient else 0, dtype=dtype)
    if count == 0:
        return x.new_full((), float("nan"), dtype=dtype), gradient
    # Differences number somewhat less than numel: one factor 1 / numel in front, and one weight a pair of axes of about 1.
    n, s = launch.sizes(u.shape[2:]), launch.sizes(spacing)
    pure = [n[d] / ((n[d] - 2) * s[d] ** 4) if n[d] > 2 else 0.0 for d in range(3)]
    once = [n[d] / ((n[d] - 1) * s[d] ** 2) if n[d] > 1 else 0.0 for d in range(3)]
    mixed = [2 * once[d] * once[e] for d, e in ((0, 1), (0, 2), (1, 2))]
    programs = tiles.count(u.shape[0] * u.shape[1], (launch.blocks(n[0], PLANES), *n[1:]))
    partials = x.new_empty(programs, dtype=dtype)
    launch.run(
        _bending, programs, x, gradient, partials, *n, *pure, *mixed, 1 / count,
        num_warps=8, D=len(spacing), GRADIENT=need_gradient, PLANES=PLANES, WORK=launch.work_type(u), OFFSET=launch.offset_type(u),
        BLOCK_J=tiles.BLOCK_J, BLOCK_K=tiles.BLOCK_K,
    )  # fmt: skip
    return (partials.sum(dtype=torch.float64) / count).to(dtype), gradient
