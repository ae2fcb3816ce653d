"""expected_displacement and best_displacement in Triton: the similarities of search.py, of which nothing but the answer is written.

A program takes a few keypoints and goes through their whole cubes, BLOCK_L displacements at a time. Each lane keeps a result of its own,
rescaled sums of a soft-max (as in online soft-max) or the best displacement, and lanes are combined once, at the end: no shuffle in the
loop but the sum over channels. Memory sees the features and 4 numbers a keypoint; gathers from L1 and L2 bound it, C s bytes a
displacement and patch sample, and then two exponentials a displacement.
"""

import triton
import triton.language as tl

from regkit.kernels import launch
from regkit.kernels.correlate_gradient import OF_EXPECTED, feature_gradients
from regkit.kernels.neighbours import number
from regkit.kernels.search import SSD, Search, cube, similarity

LOWEST = tl.constexpr(-3.0e38)  # below all scores but -infinity, from which no NaN comes by subtraction


@triton.jit
def _expected(fixed, moving, keypoints, centers, displacement, logsumexp, count, slope: tl.float64, stride, patch_stride,
              points, fi, fj, fk, mi, mj, mk,
              BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, RADIUS: tl.constexpr, PATCH: tl.constexpr, METRIC: tl.constexpr,
              C: tl.constexpr, BLOCK_C: tl.constexpr, D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr):  # fmt: skip
    L: tl.constexpr = (2 * RADIUS + 1) ** D
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    point = tl.minimum(row, count - 1)
    s = number(slope, WORK)
    largest, total = tl.full([BLOCK_N, BLOCK_L], LOWEST, WORK), tl.zeros([BLOCK_N, BLOCK_L], WORK)
    along_i, along_j, along_k = tl.zeros_like(total), tl.zeros_like(total), tl.zeros_like(total)
    for d0 in range(0, L, BLOCK_L):
        index = d0 + tl.arange(0, BLOCK_L)
        value, _, _ = similarity(
            fixed, moving, keypoints, centers, point, index, points, stride, patch_stride, fi, fj, fk, mi, mj, mk,
            RADIUS, PATCH, METRIC, C, BLOCK_C, D, WORK, OFFSET,
        )  # fmt: skip
        score = tl.where((index < L)[None, :], s * value, -float("inf"))
        higher = tl.maximum(largest, score)
        shrink, weight = tl.exp(largest - higher), tl.exp(score - higher)
        di, dj, dk = cube(index, RADIUS, D)
        total = total * shrink + weight
        if D == 3:
            along_i = along_i * shrink + weight * di[None, :]
        along_j = along_j * shrink + weight * dj[None, :]
        along_k = along_k * shrink + weight * dk[None, :]
        largest = higher
    highest = tl.max(largest, 1)
    weight = tl.exp(largest - highest[:, None])
    total = tl.sum(total * weight, 1)
    step = stride / total
    at, exists = point.to(OFFSET) * D, row < count
    if D == 3:
        tl.store(displacement + at, tl.sum(along_i * weight, 1) * step, mask=exists)
    tl.store(displacement + at + (D - 2), tl.sum(along_j * weight, 1) * step, mask=exists)
    tl.store(displacement + at + (D - 1), tl.sum(along_k * weight, 1) * step, mask=exists)
    tl.store(logsumexp + point, highest + tl.log(total), mask=exists)


@triton.jit
def _best(fixed, moving, keypoints, centers, displacement, count, stride, patch_stride, points, fi, fj, fk, mi, mj, mk,
          KEY: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, RADIUS: tl.constexpr, PATCH: tl.constexpr,
          METRIC: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr, D: tl.constexpr, WORK: tl.constexpr,
          OFFSET: tl.constexpr):  # fmt: skip
    """Of equal costs the least key wins: the squared length of the displacement first, its number next. NaN wins over all, with key -1."""
    L: tl.constexpr = (2 * RADIUS + 1) ** D
    NO_KEY: tl.constexpr = (D * RADIUS * RADIUS + 1) * L
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    point = tl.minimum(row, count - 1)
    least, chosen = tl.full([BLOCK_N, BLOCK_L], float("inf"), WORK), tl.full([BLOCK_N, BLOCK_L], NO_KEY, KEY)
    for d0 in range(0, L, BLOCK_L):
        index = d0 + tl.arange(0, BLOCK_L)
        value, _, _ = similarity(
            fixed, moving, keypoints, centers, point, index, points, stride, patch_stride, fi, fj, fk, mi, mj, mk,
            RADIUS, PATCH, METRIC, C, BLOCK_C, D, WORK, OFFSET,
        )  # fmt: skip
        cost = value if METRIC == SSD else -value
        di, dj, dk = cube(index, RADIUS, D)
        key = ((di * di + dj * dj + dk * dk).to(KEY) * L + index)[None, :]
        known = cost == cost
        cost, key = tl.where(known, cost, -float("inf")), tl.where(known, key, -1)
        better = (index < L)[None, :] & ((cost < least) | ((cost == least) & (key < chosen)))
        least, chosen = tl.where(better, cost, least), tl.where(better, key, chosen)
    lowest = tl.min(least, 1)
    key = tl.min(tl.where(least == lowest[:, None], chosen, NO_KEY), 1)
    di, dj, dk = cube((tl.maximum(key, 0) % L).to(tl.int32), RADIUS, D)
    nan = tl.where(key < 0, float("nan"), 0.0)
    at, exists = point.to(OFFSET) * D, row < count
    if D == 3:
        tl.store(displacement + at, di * stride + nan, mask=exists)
    tl.store(displacement + at + (D - 2), dj * stride + nan, mask=exists)
    tl.store(displacement + at + (D - 1), dk * stride + nan, mask=exists)


def _slope(metric: int, sharpness: float) -> float:
    return -sharpness if metric == SSD else sharpness


def expected_displacement(fixed, moving, keypoints, centers, *search_and_sharpness):
    *search, sharpness = search_and_sharpness
    s = Search(fixed, moving, keypoints, centers, *search)
    displacement, logsumexp, options = s.new(*s.shape, s.dims), s.new(*s.shape), s.tile()
    s.run(
        _expected, launch.blocks(s.points, options["BLOCK_N"]), displacement, logsumexp, s.points, _slope(s.metric, sharpness),
        s.stride, s.patch_stride, **options,
    )  # fmt: skip
    return displacement, logsumexp


def expected_displacement_backward(grad, displacement, logsumexp, fixed, moving, keypoints, centers, *search_sharpness_and_needs):
    *search, sharpness, need_fixed, need_moving = search_sharpness_and_needs
    s = Search(fixed, moving, keypoints, centers, *search)
    saved = (t.contiguous() for t in (grad, displacement, logsumexp))
    return feature_gradients(s, fixed, moving, need_fixed, need_moving, OF_EXPECTED, *saved, slope=_slope(s.metric, sharpness))


def best_displacement(fixed, moving, keypoints, centers, *search):
    s = Search(fixed, moving, keypoints, centers, *search)
    displacement, options = s.new(*s.shape, s.dims), s.tile()
    largest_key = (s.dims * s.radius**2 + 1) * s.displacements
    s.run(
        _best, launch.blocks(s.points, options["BLOCK_N"]), displacement, s.points, s.stride, s.patch_stride,
        KEY=tl.int32 if largest_key < 2**31 else tl.int64, **options,
    )  # fmt: skip
    return displacement
