"""det(I + grad u) and its gradient in Triton. Formulas: csrc/core/jacobian.h.

Bytes a voxel (3-D, float32): forward 12 read, 4 written; backward 16 read, 12 written. A program takes 8 x 32 voxels of a plane; neighbours
come from L1 and L2.

The backward gathers, without atomics: u_c(y) enters the derivatives by axis d at two voxels (its neighbours along d; at the border itself),
with weights g * cofactor there. Cofactors are computed anew: 72 loads a voxel from L1. Writing them first instead would move 72 bytes more
a voxel through memory, which takes longer.
"""

import torch
import triton
import triton.language as tl

from regkit.kernels import launch, tiles
from regkit.kernels.neighbours import around


@triton.jit
def _column(c, x, n, stride, voxels, inside, D: tl.constexpr, WORK: tl.constexpr):
    """The derivatives of the components along an axis, x being the index along it; c points at the first component. The third is 0 in
    2-D."""
    low, high, inverse = around(x, n, WORK)
    low, high = c + low * stride, c + high * stride
    first = tl.load(high, mask=inside, other=0.0).to(WORK) - tl.load(low, mask=inside, other=0.0).to(WORK)
    second = tl.load(high + voxels, mask=inside, other=0.0).to(WORK) - tl.load(low + voxels, mask=inside, other=0.0).to(WORK)
    third = 0 * second
    if D == 3:
        third = tl.load(high + 2 * voxels, mask=inside, other=0.0).to(WORK) - tl.load(low + 2 * voxels, mask=inside, other=0.0).to(WORK)
    return first * inverse, second * inverse, third * inverse


@triton.jit
def determinant(c, i, j, k, ni, nj, nk, voxels, inside, D: tl.constexpr, WORK: tl.constexpr):
    """At the voxels of a tile; c points at the first component of u there."""
    j0, j1, j2 = _column(c, j, nj, nk, voxels, inside, D, WORK)
    k0, k1, k2 = _column(c, k, nk, 1, voxels, inside, D, WORK)
    if D == 3:
        i0, i1, i2 = _column(c, i, ni, nj * nk, voxels, inside, D, WORK)
        i0, j1, k2 = i0 + 1, j1 + 1, k2 + 1
        value = i0 * (j1 * k2 - j2 * k1) + i1 * (j2 * k0 - j0 * k2) + i2 * (j0 * k1 - j1 * k0)
    else:
        value = (j0 + 1) * (k1 + 1) - j1 * k0
    return value


@triton.jit
def _forward(u, out, ni, nj, nk, D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr,
             BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    voxels = tl.cast(ni, OFFSET) * nj * nk
    at = (tl.cast(i, OFFSET) * nj + j) * nk + k
    c = u + tl.cast(b, OFFSET) * D * voxels + at
    value = determinant(c, i, j, k, ni, nj, nk, voxels, inside, D, WORK)
    tl.store(out + b * voxels + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _cofactors(c, i, j, k, ni, nj, nk, voxels, inside, AXIS: tl.constexpr, D: tl.constexpr, WORK: tl.constexpr):
    """d det / d (column AXIS) at a voxel; axes are 0, 1, 2 for i, j, k, in 2-D too."""
    if D == 2:
        if AXIS == 1:
            a0, a1, a2 = _column(c, k, nk, 1, voxels, inside, D, WORK)
            r0, r1, r2 = a1 + 1, -a0, a2
        else:
            a0, a1, a2 = _column(c, j, nj, nk, voxels, inside, D, WORK)
            r0, r1, r2 = -a1, a0 + 1, a2
    else:
        if AXIS == 0:
            a0, a1, a2 = _column(c, j, nj, nk, voxels, inside, D, WORK)
            b0, b1, b2 = _column(c, k, nk, 1, voxels, inside, D, WORK)
            a1, b2 = a1 + 1, b2 + 1
        elif AXIS == 1:
            a0, a1, a2 = _column(c, k, nk, 1, voxels, inside, D, WORK)
            b0, b1, b2 = _column(c, i, ni, nj * nk, voxels, inside, D, WORK)
            a2, b0 = a2 + 1, b0 + 1
        else:
            a0, a1, a2 = _column(c, i, ni, nj * nk, voxels, inside, D, WORK)
            b0, b1, b2 = _column(c, j, nj, nk, voxels, inside, D, WORK)
            a0, b1 = a0 + 1, b1 + 1
        r0, r1, r2 = a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0
    return r0, r1, r2


@triton.jit
def _source(x, n, HIGH: tl.constexpr, WORK: tl.constexpr):
    """One of the two indices whose differences u(x) enters, and by what: at the border it enters its own."""
    if HIGH:
        s, sign = tl.minimum(x + 1, n - 1), tl.where(x < n - 1, -1, 1)
    else:
        s, sign = tl.maximum(x - 1, 0), tl.where(x > 0, 1, -1)
    low, high, inverse = around(s, n, WORK)
    return s, sign * inverse


@triton.jit
def _term(c, g, i, j, k, ni, nj, nk, voxels, inside, AXIS: tl.constexpr, HIGH: tl.constexpr, D: tl.constexpr, WORK: tl.constexpr):
    """What u(x) gets by the difference along AXIS at one of its sources: three components."""
    if AXIS == 0:
        s, weight = _source(i, ni, HIGH, WORK)
        offset = (s - i) * nj * nk
        r0, r1, r2 = _cofactors(c + offset, s, j, k, ni, nj, nk, voxels, inside, AXIS, D, WORK)
    elif AXIS == 1:
        s, weight = _source(j, nj, HIGH, WORK)
        offset = (s - j) * nk
        r0, r1, r2 = _cofactors(c + offset, i, s, k, ni, nj, nk, voxels, inside, AXIS, D, WORK)
    else:
        s, weight = _source(k, nk, HIGH, WORK)
        offset = s - k
        r0, r1, r2 = _cofactors(c + offset, i, j, s, ni, nj, nk, voxels, inside, AXIS, D, WORK)
    weight *= tl.load(g + offset, mask=inside, other=0.0).to(WORK)
    return weight * r0, weight * r1, weight * r2


@triton.jit
def _backward(grad, u, out, ni, nj, nk, D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr,
              BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    voxels = tl.cast(ni, OFFSET) * nj * nk
    at = (tl.cast(i, OFFSET) * nj + j) * nk + k
    first = tl.cast(b, OFFSET) * D * voxels + at
    c, g = u + first, grad + tl.cast(b, OFFSET) * voxels + at
    r0, r1, r2 = tl.zeros((BLOCK_J, BLOCK_K), WORK), tl.zeros((BLOCK_J, BLOCK_K), WORK), tl.zeros((BLOCK_J, BLOCK_K), WORK)
    for axis in tl.static_range(3 - D, 3):
        for high in tl.static_range(2):
            t0, t1, t2 = _term(c, g, i, j, k, ni, nj, nk, voxels, inside, axis, high, D, WORK)
            r0 += t0
            r1 += t1
            r2 += t2
    tl.store(out + first, r0.to(out.dtype.element_ty), mask=inside)
    tl.store(out + first + voxels, r1.to(out.dtype.element_ty), mask=inside)
    if D == 3:
        tl.store(out + first + 2 * voxels, r2.to(out.dtype.element_ty), mask=inside)


def _launch(kernel, *args, u: torch.Tensor, **options) -> None:
    spatial = launch.sizes(u.shape[2:])
    launch.run(
        kernel, tiles.count(u.shape[0], spatial), *args, *spatial, D=u.shape[1], WORK=launch.work_type(u), OFFSET=launch.offset_type(u),
        BLOCK_J=tiles.BLOCK_J, BLOCK_K=tiles.BLOCK_K, **options,
    )  # fmt: skip


def jacobian_determinant(u):
    out = u.new_empty((u.shape[0], 1, *u.shape[2:]))
    _launch(_forward, u.contiguous(), out, u=u)
    return out


def jacobian_determinant_backward(grad, u):
    x = u.contiguous()
    out = torch.empty_like(x)
    _launch(_backward, grad.contiguous(), x, out, u=x, num_warps=8)  # one voxel a thread: two would not fit in its registers
    return out
