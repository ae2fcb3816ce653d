"""correlate_keypoints and its gradients in Triton. Formulas: csrc/core/correlate.h. F_p, M_(d+p): the C channels of a patch sample.

Forward: a program takes one keypoint and a block of displacements. F_p sits in registers while it streams the rows of channels M_(d+p);
products are summed over the patch first and over channels once, at the end. Per displacement C s bytes are gathered for each patch sample
(24 for 12 channels of float16), most of them from L1 and L2, where the cube of a keypoint stays between its samples, against one number
written: the map, N L s bytes, is the only traffic to memory that grows with L. 2-3 C P FLOP per displacement, so that gathers bound it.

Gradient by the fixed features: a program takes one keypoint and patch sample and sums alpha_d M_(d+p) over the cube in registers; what
remains to scatter is one row of channels per keypoint and sample.

Gradient by the moving features: a program takes one keypoint and a block of the voxels o = d + p that its patches touch, on the lattice that
holds both displacements and patch samples, and gathers sum_p alpha_(o-p) F_p + (sum_p beta_(o-p)) M_o first. That is P times fewer atomics
than one for each displacement and sample: (2 (R + r) + 1)^D rows of C per keypoint instead of (2R + 1)^D (2r + 1)^D.
"""

from math import gcd

import torch
import triton
import triton.language as tl

from regkit.kernels import launch, search
from regkit.kernels.search import COSINE, COSINE_EPS, DOT, SSD, cube, load_row, load_rows, position, voxel
from regkit.kernels.warp import scatter


@triton.jit
def _forward(fixed, moving, keypoints, centers, out, grad, beta, gamma, points, stride, patch_stride, fi, fj, fk, mi, mj, mk,
             RADIUS: tl.constexpr, PATCH: tl.constexpr, METRIC: tl.constexpr, TERMS: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
             BLOCK_L: tl.constexpr, D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr):  # fmt: skip
    """The similarities; or, with TERMS, alpha (into out), beta, and each block's share of gamma, of cosine similarities."""
    L: tl.constexpr = (2 * RADIUS + 1) ** D
    P: tl.constexpr = (2 * PATCH + 1) ** D
    BLOCKS: tl.constexpr = (L + BLOCK_L - 1) // BLOCK_L
    point = tl.program_id(0) // BLOCKS
    b = (point // points).to(OFFSET)
    index = tl.program_id(0) % BLOCKS * BLOCK_L + tl.arange(0, BLOCK_L)
    inside = index < L
    di, dj, dk = cube(index, RADIUS, D)
    xi, xj, xk = position(keypoints, point, D)
    yi, yj, yk = position(centers, point, D)
    yi, yj, yk = yi + di * stride, yj + dj * stride, yk + dk * stride
    first_fixed, first_moving = b * fi * fj * fk, b * mi * mj * mk
    total = tl.zeros([BLOCK_L, BLOCK_C], WORK)
    square_fixed, square_moving = tl.zeros([BLOCK_C], WORK), tl.zeros([BLOCK_L, BLOCK_C], WORK)
    for p in range(P):
        pi, pj, pk = cube(p, PATCH, D)
        pi, pj, pk = pi * patch_stride, pj * patch_stride, pk * patch_stride
        at_fixed = first_fixed + voxel(xi + pi, xj + pj, xk + pk, fi, fj, fk, OFFSET)
        at_moving = first_moving + voxel(yi + pi, yj + pj, yk + pk, mi, mj, mk, OFFSET)
        for c0 in range(0, C, BLOCK_C):
            c = c0 + tl.arange(0, BLOCK_C)
            f = load_row(fixed, at_fixed, c, C, WORK)
            m = load_rows(moving, at_moving, inside, c, C, WORK)
            if METRIC == SSD:
                total += (f[None, :] - m) * (f[None, :] - m)
            else:
                total += f[None, :] * m
            if METRIC == COSINE:
                square_fixed += f * f
                square_moving += m * m
    similarity = tl.sum(total, 1)
    at = point.to(OFFSET) * L + index
    if METRIC == COSINE:
        norm_fixed, norm_moving = tl.sqrt(tl.sum(square_fixed, 0)), tl.sqrt(tl.sum(square_moving, 1))
        inverse = 1 / (norm_fixed * norm_moving + COSINE_EPS)
        similarity *= inverse
    else:
        similarity /= P
    if TERMS:
        alpha = tl.load(grad + at, mask=inside, other=0.0).to(WORK) * inverse
        pull = -alpha * similarity
        tl.store(out + at, alpha, mask=inside)
        tl.store(beta + at, tl.where(norm_moving > 0, pull * norm_fixed / norm_moving, 0.0), mask=inside)
        share = tl.where(norm_fixed > 0, tl.where(inside, pull * norm_moving / norm_fixed, 0.0), 0.0)
        tl.store(gamma + tl.program_id(0), tl.sum(share, 0))
    else:
        tl.store(out + at, similarity.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _grad_fixed(fixed, moving, keypoints, centers, alpha, gamma, out, unit, points, stride, patch_stride, fi, fj, fk, mi, mj, mk,
                RADIUS: tl.constexpr, PATCH: tl.constexpr, METRIC: tl.constexpr, FIXED: tl.constexpr, C: tl.constexpr,
                BLOCK_C: tl.constexpr, BLOCK_L: tl.constexpr, D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr):  # fmt: skip
    """alpha: for ssd and dot the gradient of the map."""
    L: tl.constexpr = (2 * RADIUS + 1) ** D
    P: tl.constexpr = (2 * PATCH + 1) ** D
    point = tl.program_id(0) // P
    b = (point // points).to(OFFSET)
    pi, pj, pk = cube(tl.program_id(0) % P, PATCH, D)
    pi, pj, pk = pi * patch_stride, pj * patch_stride, pk * patch_stride
    xi, xj, xk = position(keypoints, point, D)
    yi, yj, yk = position(centers, point, D)
    yi, yj, yk = yi + pi, yj + pj, yk + pk
    at_fixed = b * fi * fj * fk + voxel(xi + pi, xj + pj, xk + pk, fi, fj, fk, OFFSET)
    first_moving = b * mi * mj * mk
    step = tl.load(unit) if FIXED else 1.0
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        f = load_row(fixed, at_fixed, c, C, WORK)
        total = tl.zeros([BLOCK_L, BLOCK_C], WORK)
        for first in range(0, L, BLOCK_L):
            index = first + tl.arange(0, BLOCK_L)
            inside = index < L
            di, dj, dk = cube(index, RADIUS, D)
            at_moving = first_moving + voxel(yi + di * stride, yj + dj * stride, yk + dk * stride, mi, mj, mk, OFFSET)
            a = tl.load(alpha + point.to(OFFSET) * L + index, mask=inside, other=0.0).to(WORK)
            m = load_rows(moving, at_moving, inside, c, C, WORK)
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
            g += tl.load(gamma + point) * f
        scatter(out + at_fixed * C + c, g, step, c < C, FIXED)


@triton.jit
def _grad_moving(fixed, moving, keypoints, centers, alpha, beta, out, unit, points, lattice, fi, fj, fk, mi, mj, mk,
                 RADIUS: tl.constexpr, STRIDE: tl.constexpr, PATCH: tl.constexpr, PATCH_STRIDE: tl.constexpr, METRIC: tl.constexpr,
                 FIXED: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr, D: tl.constexpr,
                 WORK: tl.constexpr, OFFSET: tl.constexpr):  # fmt: skip
    """STRIDE and PATCH_STRIDE count steps of the lattice, `lattice` voxels each."""
    L: tl.constexpr = (2 * RADIUS + 1) ** D
    P: tl.constexpr = (2 * PATCH + 1) ** D
    SIDE: tl.constexpr = 2 * RADIUS + 1
    REACH: tl.constexpr = RADIUS * STRIDE + PATCH * PATCH_STRIDE
    WINDOW: tl.constexpr = (2 * REACH + 1) ** D
    BLOCKS: tl.constexpr = (WINDOW + BLOCK_O - 1) // BLOCK_O
    point = tl.program_id(0) // BLOCKS
    b = (point // points).to(OFFSET)
    index = tl.program_id(0) % BLOCKS * BLOCK_O + tl.arange(0, BLOCK_O)
    oi, oj, ok = cube(index, REACH, D)
    xi, xj, xk = position(keypoints, point, D)
    yi, yj, yk = position(centers, point, D)
    first_fixed = b * fi * fj * fk
    at_moving = b * mi * mj * mk + voxel(yi + oi * lattice, yj + oj * lattice, yk + ok * lattice, mi, mj, mk, OFFSET)
    step = tl.load(unit) if FIXED else 1.0
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        m = load_rows(moving, at_moving, index < WINDOW, c, C, WORK)
        total = tl.zeros([BLOCK_O, BLOCK_C], WORK)
        pull = tl.zeros([BLOCK_O], WORK)
        touched = index < 0
        for p in range(P):
            pi, pj, pk = cube(p, PATCH, D)
            # d = o - p, counted from the corner of the cube in steps of the lattice: a displacement of the search if it is on all axes.
            ti = oi + RADIUS * STRIDE - pi * PATCH_STRIDE if D == 3 else oi
            tj, tk = oj + RADIUS * STRIDE - pj * PATCH_STRIDE, ok + RADIUS * STRIDE - pk * PATCH_STRIDE
            on = (index < WINDOW) & on_axis(ti, STRIDE, SIDE) & on_axis(tj, STRIDE, SIDE) & on_axis(tk, STRIDE, SIDE)
            at = point.to(OFFSET) * L + ((ti // STRIDE) * SIDE + tj // STRIDE) * SIDE + tk // STRIDE
            a = tl.load(alpha + at, mask=on, other=0.0).to(WORK)
            at_fixed = first_fixed + voxel(
                xi + pi * PATCH_STRIDE * lattice, xj + pj * PATCH_STRIDE * lattice, xk + pk * PATCH_STRIDE * lattice, fi, fj, fk, OFFSET
            )
            f = load_row(fixed, at_fixed, c, C, WORK)
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


@triton.jit
def on_axis(t, STRIDE: tl.constexpr, SIDE: tl.constexpr):
    return (t >= 0) & (t < SIDE * STRIDE) & (t % STRIDE == 0)


class _Problem:
    """The inputs as kernels take them, and the options that they share."""

    def __init__(self, fixed, moving, keypoints, centers, radius, stride, patch_radius, patch_stride, metric):
        self.fixed, self.moving = search.rows(fixed), search.rows(moving)
        self.positions = keypoints.contiguous(), centers.contiguous()
        self.batch, self.points, self.dims = keypoints.shape
        self.radius, self.stride, self.patch_radius, self.patch_stride = radius, stride, patch_radius, patch_stride
        self.displacements, self.samples = (2 * radius + 1) ** self.dims, (2 * patch_radius + 1) ** self.dims
        self.spatial = *launch.sizes(fixed.shape[2:]), *launch.sizes(moving.shape[2:])
        self.dtype = launch.work_dtype(fixed, moving)
        self.options = {
            "RADIUS": radius, "PATCH": patch_radius, "METRIC": metric, "D": self.dims, "WORK": launch.work_type(fixed, moving),
            **search.channels(fixed.shape[1]),
        }  # fmt: skip

    def run(self, kernel, programs: int, outputs: tuple, *sizes, **options) -> None:
        """`programs` of the kernel for every keypoint."""
        offsets = launch.offset_type(self.fixed, self.moving, *outputs)
        tensors = self.fixed, self.moving, *self.positions, *outputs
        launch.run(
            kernel, self.batch * self.points * programs, *tensors, self.points, *sizes, *self.spatial,
            OFFSET=offsets, **self.options, **options,
        )  # fmt: skip

    def forward(self, out, grad=None, beta=None, gamma=None, terms: bool = False) -> None:
        self.run(
            _forward, launch.blocks(self.displacements, self.block_l), (out, grad, beta, gamma), self.stride, self.patch_stride,
            TERMS=terms, BLOCK_L=self.block_l,
        )  # fmt: skip

    @property
    def block_l(self) -> int:
        return search.block(self.displacements, self.options["BLOCK_C"])


def correlate_keypoints(fixed, moving, keypoints, centers, search_radius, stride, patch_radius, patch_stride, metric):
    problem = _Problem(fixed, moving, keypoints, centers, search_radius, stride, patch_radius, patch_stride, metric)
    out = fixed.new_empty(problem.batch, problem.points, problem.displacements)
    problem.forward(out)
    return out


def correlate_keypoints_backward(
    grad, fixed, moving, keypoints, centers, search_radius, stride, patch_radius, patch_stride, metric, need_fixed, need_moving
):
    problem = _Problem(fixed, moving, keypoints, centers, search_radius, stride, patch_radius, patch_stride, metric)
    alpha, beta, gamma = grad.contiguous(), None, None
    if metric == COSINE.value:
        shape = alpha.shape
        alpha, beta = (torch.empty(shape, dtype=problem.dtype, device=grad.device) for _ in range(2))
        shares = alpha.new_empty(*shape[:2], launch.blocks(problem.displacements, problem.block_l))
        problem.forward(alpha, grad.contiguous(), beta, shares, terms=True)
        gamma = shares.sum(2)
    return (
        _fixed_gradient(problem, alpha, gamma).images(fixed.dtype) if need_fixed else fixed.new_empty(0),
        _moving_gradient(problem, alpha, beta).images(moving.dtype) if need_moving else moving.new_empty(0),
    )


def _largest(*tensors) -> list[torch.Tensor]:
    return [t.abs().amax().double() for t in tensors]


def _fixed_gradient(problem: _Problem, alpha, gamma) -> search.Scatter:
    def bound():
        a, f, m = _largest(alpha, problem.fixed, problem.moving)
        return 2 * problem.displacements * a * (f + m) + (0 if gamma is None else gamma.abs().amax() * f)

    out = search.Scatter(problem.fixed, problem.dtype, bound, problem.points * problem.samples)
    problem.run(
        _grad_fixed, problem.samples, (alpha, gamma, out.sums, out.unit), problem.stride, problem.patch_stride,
        FIXED=out.fixed, BLOCK_L=problem.block_l,
    )  # fmt: skip
    return out


def _moving_gradient(problem: _Problem, alpha, beta) -> search.Scatter:
    def bound():
        a, f, m = _largest(alpha, problem.fixed, problem.moving)
        return problem.samples * (2 * a * (f + m) + (0 if beta is None else beta.abs().amax() * m))

    # A radius of 0 has no steps, so that its stride may be the other's: the coarser the lattice, the fewer voxels to look at.
    stride = problem.stride if problem.radius else problem.patch_stride
    patch_stride = problem.patch_stride if problem.patch_radius else stride
    lattice = gcd(stride, patch_stride)
    steps = {"STRIDE": stride // lattice, "PATCH_STRIDE": patch_stride // lattice}
    window = (2 * (problem.radius * steps["STRIDE"] + problem.patch_radius * steps["PATCH_STRIDE"]) + 1) ** problem.dims
    block = search.block(window, problem.options["BLOCK_C"])
    out = search.Scatter(problem.moving, problem.dtype, bound, problem.points * window)
    problem.run(
        _grad_moving, launch.blocks(window, block), (alpha, beta, out.sums, out.unit), lattice,
        FIXED=out.fixed, BLOCK_O=block, **steps,
    )  # fmt: skip
    return out
