"""Gradients by the features of what is made of similarities to a search cube. Formulas: csrc/core/correlate.h.

First, alpha_d = dL/dsimilarity_d of every displacement d (for cosine alpha, beta, and gamma): the gradient of the map for
correlate_keypoints itself; for the ops without a map computed here, and with it the similarities, for as many keypoints at a time as
CHUNK numbers hold, which stay in L2. Then for each of them:

- Gradient by the fixed features: a program takes one keypoint and patch sample p and sums alpha_d M_(d+p) over the cube in registers; what
  remains to scatter is one row of channels per keypoint and sample.
- Gradient by the moving features: a program takes one keypoint and a block of the voxels o = d + p that its patches touch, on the lattice
  that holds both displacements and patch samples, and gathers sum_p alpha_(o-p) F_p + (sum_p beta_(o-p)) M_o first. That is P times fewer
  atomics than one for each displacement and sample: (2 (R + r) + 1)^D rows of channels instead of (2R + 1)^D (2r + 1)^D. They bound it.

Atomics add floats, or in deterministic mode 64-bit fixed point numbers.
"""

from collections.abc import Callable, Iterator
from math import gcd

import torch
import triton
import triton.language as tl

from regkit.kernels import fixed_point, launch
from regkit.kernels.neighbours import number
from regkit.kernels.search import COSINE, COSINE_EPS, DOT, SSD, Search, cube, images, position, power_of_2, similarity, voxel
from regkit.kernels.warp import scatter

CHUNK = 2**24
OF_MAP, OF_EXPECTED, OF_EMBEDDED = (tl.constexpr(source) for source in range(3))


@triton.jit
def _alpha(fixed, moving, keypoints, centers, grad, displacement, logsumexp, basis, alpha, beta, gamma, first, count, slope: tl.float64,
           columns, stride, patch_stride, points, fi, fj, fk, mi, mj, mk,
           SOURCE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_L: tl.constexpr, RADIUS: tl.constexpr,
           PATCH: tl.constexpr, METRIC: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr, D: tl.constexpr, WORK: tl.constexpr,
           OFFSET: tl.constexpr):  # fmt: skip
    """alpha, beta (count, L), gamma's share of each block (count, blocks) of the points from `first` on. grad: that of the map (points, L),
    of the expected displacements (points, D), or of the embeddings (points, columns)."""
    L: tl.constexpr = (2 * RADIUS + 1) ** D
    blocks = tl.cdiv(L, BLOCK_L)
    block = tl.program_id(0) % blocks
    row = tl.program_id(0) // blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    index = block * BLOCK_L + tl.arange(0, BLOCK_L)
    inside = (row < count)[:, None] & (index < L)[None, :]
    point = first + tl.minimum(row, count - 1)
    at = point.to(OFFSET)[:, None]
    value, norm_fixed, norm_moving = similarity(
        fixed, moving, keypoints, centers, point, index, points, stride, patch_stride, fi, fj, fk, mi, mj, mk,
        RADIUS, PATCH, METRIC, C, BLOCK_C, D, WORK, OFFSET,
    )  # fmt: skip
    if SOURCE == OF_MAP:
        g = tl.load(grad + at * L + index[None, :], mask=inside, other=0.0).to(WORK)
    elif SOURCE == OF_EXPECTED:
        di, dj, dk = cube(index, RADIUS, D)
        by_j, by_k = tl.load(grad + at * D + (D - 2)).to(WORK), tl.load(grad + at * D + (D - 1)).to(WORK)
        along = by_j * ((dj * stride)[None, :] - tl.load(displacement + at * D + (D - 2)))
        along += by_k * ((dk * stride)[None, :] - tl.load(displacement + at * D + (D - 1)))
        if D == 3:
            along += tl.load(grad + at * D).to(WORK) * ((di * stride)[None, :] - tl.load(displacement + at * D))
        s = number(slope, WORK)
        g = s * tl.exp(s * value - tl.load(logsumexp + at)) * along
    else:
        g = tl.zeros([BLOCK_N, BLOCK_L], WORK)
        for p0 in range(0, columns, BLOCK_P):
            p = (p0 + tl.arange(0, BLOCK_P))[None, :]
            by = tl.load(grad + at * columns + p, mask=p < columns, other=0.0).to(WORK)
            e = tl.load(basis + index[:, None].to(OFFSET) * columns + p, mask=(index < L)[:, None] & (p < columns), other=0.0).to(WORK)
            g = tl.dot(by, tl.trans(e), g, input_precision="ieee", out_dtype=WORK)
    to = row.to(OFFSET)[:, None] * L + index[None, :]
    if METRIC == COSINE:
        g /= norm_fixed * norm_moving + COSINE_EPS
        pull = -g * value
        tl.store(beta + to, tl.where(norm_moving > 0, pull * norm_fixed / norm_moving, 0.0), mask=inside)
        share = tl.where(inside & (norm_fixed > 0), pull * norm_moving / norm_fixed, 0.0)
        tl.store(gamma + row.to(OFFSET) * blocks + block, tl.sum(share, 1), mask=row < count)
    tl.store(alpha + to, g, mask=inside)


@triton.jit
def _grad_fixed(fixed, moving, keypoints, centers, alpha, gamma, out, unit, first, stride, patch_stride, points, fi, fj, fk, mi, mj, mk,
                FIXED: tl.constexpr, BLOCK_L: tl.constexpr, RADIUS: tl.constexpr, PATCH: tl.constexpr, METRIC: tl.constexpr,
                C: tl.constexpr, BLOCK_C: tl.constexpr, D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr):  # fmt: skip
    L: tl.constexpr = (2 * RADIUS + 1) ** D
    P: tl.constexpr = (2 * PATCH + 1) ** D
    row = tl.program_id(0) // P
    b = ((first + row) // points).to(OFFSET)
    pi, pj, pk = cube(tl.program_id(0) % P, PATCH, D)
    pi, pj, pk = pi * patch_stride, pj * patch_stride, pk * patch_stride
    xi, xj, xk = position(keypoints, first + row, D)
    yi, yj, yk = position(centers, first + row, D)
    yi, yj, yk = yi + pi, yj + pj, yk + pk
    at_fixed = b * fi * fj * fk + voxel(xi + pi, xj + pj, xk + pk, fi, fj, fk, OFFSET)
    first_moving = b * mi * mj * mk
    step = 1.0 / tl.load(unit) if FIXED else 1.0  # a power of two: exact
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        f = tl.load(fixed + at_fixed * C + c, mask=c < C, other=0).to(WORK)
        total = tl.zeros([BLOCK_L, BLOCK_C], WORK)
        for d0 in range(0, L, BLOCK_L):
            index = d0 + tl.arange(0, BLOCK_L)
            di, dj, dk = cube(index, RADIUS, D)
            at_moving = first_moving + voxel(yi + di * stride, yj + dj * stride, yk + dk * stride, mi, mj, mk, OFFSET)
            a = tl.load(alpha + row.to(OFFSET) * L + index, mask=index < L, other=0.0).to(WORK)
            m = tl.load(moving + at_moving[:, None] * C + c[None, :], mask=(index < L)[:, None] & (c < C)[None, :], other=0).to(WORK)
            if METRIC == SSD:
                total += a[:, None] * (f[None, :] - m)
            else:
                total += a[:, None] * m
        g = tl.sum(total, 0)
        if METRIC == SSD:
            g *= 2 / P
        elif METRIC == DOT:
            g /= P
        else:
            g += tl.load(gamma + row) * f
        scatter(out + at_fixed * C + c, g, step, c < C, FIXED)


@triton.jit
def _on_axis(t, STRIDE: tl.constexpr, SIDE: tl.constexpr):
    return (t >= 0) & (t < SIDE * STRIDE) & (t % STRIDE == 0)


@triton.jit
def _grad_moving(fixed, moving, keypoints, centers, alpha, beta, out, unit, first, lattice, points, fi, fj, fk, mi, mj, mk,
                 FIXED: tl.constexpr, STRIDE: tl.constexpr, PATCH_STRIDE: tl.constexpr, BLOCK_O: tl.constexpr, RADIUS: tl.constexpr,
                 PATCH: tl.constexpr, METRIC: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr, D: tl.constexpr,
                 WORK: tl.constexpr, OFFSET: tl.constexpr):  # fmt: skip
    """STRIDE and PATCH_STRIDE count steps of the lattice, `lattice` voxels each."""
    L: tl.constexpr = (2 * RADIUS + 1) ** D
    P: tl.constexpr = (2 * PATCH + 1) ** D
    SIDE: tl.constexpr = 2 * RADIUS + 1
    REACH: tl.constexpr = RADIUS * STRIDE + PATCH * PATCH_STRIDE
    WINDOW: tl.constexpr = (2 * REACH + 1) ** D
    blocks = tl.cdiv(WINDOW, BLOCK_O)
    row = tl.program_id(0) // blocks
    b = ((first + row) // points).to(OFFSET)
    index = tl.program_id(0) % blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    oi, oj, ok = cube(index, REACH, D)
    xi, xj, xk = position(keypoints, first + row, D)
    yi, yj, yk = position(centers, first + row, D)
    at_moving = b * mi * mj * mk + voxel(yi + oi * lattice, yj + oj * lattice, yk + ok * lattice, mi, mj, mk, OFFSET)
    first_fixed, first_alpha = b * fi * fj * fk, row.to(OFFSET) * L
    step = 1.0 / tl.load(unit) if FIXED else 1.0  # a power of two: exact
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        m = tl.load(moving + at_moving[:, None] * C + c[None, :], mask=(index < WINDOW)[:, None] & (c < C)[None, :], other=0).to(WORK)
        total, pull, touched = tl.zeros([BLOCK_O, BLOCK_C], WORK), tl.zeros([BLOCK_O], WORK), index < 0
        for p in range(P):
            pi, pj, pk = cube(p, PATCH, D)
            # d = o - p, counted from the corner of the cube in steps of the lattice: a displacement of the search if it is on all axes.
            ti = oi + RADIUS * STRIDE - pi * PATCH_STRIDE if D == 3 else oi
            tj, tk = oj + RADIUS * STRIDE - pj * PATCH_STRIDE, ok + RADIUS * STRIDE - pk * PATCH_STRIDE
            on = (index < WINDOW) & _on_axis(ti, STRIDE, SIDE) & _on_axis(tj, STRIDE, SIDE) & _on_axis(tk, STRIDE, SIDE)
            at = first_alpha + ((ti // STRIDE) * SIDE + tj // STRIDE) * SIDE + tk // STRIDE
            a = tl.load(alpha + at, mask=on, other=0.0).to(WORK)
            qi, qj, qk = pi * PATCH_STRIDE * lattice, pj * PATCH_STRIDE * lattice, pk * PATCH_STRIDE * lattice
            at_fixed = first_fixed + voxel(xi + qi, xj + qj, xk + qk, fi, fj, fk, OFFSET)
            f = tl.load(fixed + at_fixed * C + c, mask=c < C, other=0).to(WORK)
            if METRIC == SSD:
                part = a[:, None] * (m - f[None, :])
            else:
                part = a[:, None] * f[None, :]
            total += tl.where(on[:, None], part, 0.0)  # a NaN in a sample that o does not meet is not its business
            if METRIC == COSINE:
                pull += tl.load(beta + at, mask=on, other=0.0)
            touched = touched | on
        if METRIC == SSD:
            total *= 2 / P
        elif METRIC == DOT:
            total /= P
        else:
            total += pull[:, None] * m
        scatter(out + at_moving[:, None] * C + c[None, :], total, step, touched[:, None] & (c < C)[None, :], FIXED)


class _Sums:
    """A gradient by features (rows), summed by atomics."""

    def __init__(self, rows: torch.Tensor, dtype: torch.dtype):
        self.total = torch.zeros(rows.shape, dtype=dtype, device=rows.device)

    def add(self, scatter: Callable, largest: Callable[[], torch.Tensor], count: int) -> None:
        """scatter(sums, unit, fixed) adds to sums. largest(): a tensor without axes that none of `count` summands for a voxel exceeds."""
        if launch.deterministic():
            unit, sums = fixed_point.unit(largest(), count), torch.zeros_like(self.total, dtype=torch.int64)
            scatter(sums, unit, True)
            self.total += sums * unit
        else:
            scatter(self.total, None, False)


class _Chunk:
    """Keypoints from `first` on, with their alpha, beta (count, L), gamma (count)."""

    def __init__(self, search: Search, first: int, alpha, beta=None, gamma=None):
        self.search, self.first, self.alpha, self.beta, self.gamma = search, first, alpha, beta, gamma
        self.count = alpha.shape[0]

    def add_fixed(self, sums: _Sums) -> None:
        s = self.search

        def scatter(sums, unit, fixed):
            s.run(
                _grad_fixed, self.count * s.samples, self.alpha, self.gamma, sums, unit, self.first, s.stride, s.patch_stride,
                offsets=(self.alpha, sums), FIXED=fixed, BLOCK_L=s.block_l,
            )  # fmt: skip

        def largest():
            a, f, m = _largest(self.alpha, s.fixed, s.moving)
            return 2 * s.displacements * a * (f + m) + (0 if self.gamma is None else self.gamma.abs().amax() * f)

        sums.add(scatter, largest, self.count * s.samples)

    def add_moving(self, sums: _Sums) -> None:
        s = self.search
        # A radius of 0 has no steps, so that its stride may be the other's: the coarser the lattice, the fewer voxels to look at.
        stride = s.stride if s.radius else s.patch_stride
        patch_stride = s.patch_stride if s.patch_radius else stride
        lattice = gcd(stride, patch_stride)
        stride, patch_stride = stride // lattice, patch_stride // lattice
        window = (2 * (s.radius * stride + s.patch_radius * patch_stride) + 1) ** s.dims
        block = s.block(window)

        def scatter(sums, unit, fixed):
            s.run(
                _grad_moving, self.count * launch.blocks(window, block), self.alpha, self.beta, sums, unit, self.first, lattice,
                offsets=(self.alpha, sums), FIXED=fixed, STRIDE=stride, PATCH_STRIDE=patch_stride, BLOCK_O=block,
            )  # fmt: skip

        def largest():
            a, f, m = _largest(self.alpha, s.fixed, s.moving)
            return s.samples * (2 * a * (f + m) + (0 if self.beta is None else self.beta.abs().amax() * m))

        sums.add(scatter, largest, self.count * window)


def _largest(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [t.abs().amax().double() for t in tensors]


def _chunks(s: Search, source: tl.constexpr, grad, displacement=None, logsumexp=None, basis=None, slope: float = 0.0) -> Iterator[_Chunk]:
    if source == OF_MAP and s.metric != COSINE:  # alpha is there
        yield _Chunk(s, 0, grad.flatten(0, 1))
        return
    columns = basis.shape[1] if basis is not None else 0
    options = s.tile_of_points() if source == OF_EMBEDDED else s.tile()
    options["BLOCK_P"] = power_of_2(16, columns, 64)
    blocks = launch.blocks(s.displacements, options["BLOCK_L"])
    size = max(CHUNK // s.displacements, 1)
    for first in range(0, s.points, size):
        count = min(size, s.points - first)
        alpha, beta, gamma = s.new(count, s.displacements), None, None
        if s.metric == COSINE:
            beta, gamma = torch.empty_like(alpha), s.new(count, blocks)
        s.run(
            _alpha, launch.blocks(count, options["BLOCK_N"]) * blocks, grad, displacement, logsumexp, basis, alpha, beta, gamma,
            first, count, slope, columns, s.stride, s.patch_stride, offsets=(grad, alpha, basis), SOURCE=source.value, **options,
        )  # fmt: skip
        yield _Chunk(s, first, alpha, beta, None if gamma is None else gamma.sum(1))


def feature_gradients(
    s: Search, fixed: torch.Tensor, moving: torch.Tensor, need_fixed: bool, need_moving: bool, source: tl.constexpr, *of, **more
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients by the features, as the ops return them. of, more: what `_alpha` takes from grad to basis, and the slope."""
    by_fixed, by_moving = _Sums(s.fixed, s.dtype) if need_fixed else None, _Sums(s.moving, s.dtype) if need_moving else None
    if s.options["C"] and (need_fixed or need_moving) and s.points:
        for chunk in _chunks(s, source, *of, **more):
            if need_fixed:
                chunk.add_fixed(by_fixed)
            if need_moving:
                chunk.add_moving(by_moving)
    return (
        images(by_fixed.total, fixed.dtype) if need_fixed else fixed.new_empty(0),
        images(by_moving.total, moving.dtype) if need_moving else moving.new_empty(0),
    )
