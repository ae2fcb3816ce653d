"""correlate_keypoints in Triton: the similarities of search.py, written. Formulas: csrc/core/correlate.h.

A program takes one keypoint, or a few of small cubes, and a block of displacements. C s bytes are gathered for each displacement and patch
sample, mostly from L1 and L2, and one number a displacement is written: the map is the only traffic to memory that grows with the cube. 2-3
FLOP for every gathered number, so that gathers bound it.
"""

import triton
import triton.language as tl

from regkit.kernels import launch
from regkit.kernels.correlate_gradient import OF_MAP, feature_gradients
from regkit.kernels.search import Search, similarity


@triton.jit
def _map(fixed, moving, keypoints, centers, out, count, stride, patch_stride, points, fi, fj, fk, mi, mj, mk,
         BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, RADIUS: tl.constexpr, PATCH: tl.constexpr, METRIC: tl.constexpr,
         C: tl.constexpr, BLOCK_C: tl.constexpr, D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr):  # fmt: skip
    L: tl.constexpr = (2 * RADIUS + 1) ** D
    blocks = tl.cdiv(L, BLOCK_L)
    row = tl.program_id(0) // blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    point = tl.minimum(row, count - 1)
    index = tl.program_id(0) % blocks * BLOCK_L + tl.arange(0, BLOCK_L)
    value, _, _ = similarity(
        fixed, moving, keypoints, centers, point, index, points, stride, patch_stride, fi, fj, fk, mi, mj, mk,
        RADIUS, PATCH, METRIC, C, BLOCK_C, D, WORK, OFFSET,
    )  # fmt: skip
    exists = (row < count)[:, None] & (index < L)[None, :]
    tl.store(out + point.to(OFFSET)[:, None] * L + index[None, :], value.to(out.dtype.element_ty), mask=exists)


def correlate_keypoints(fixed, moving, keypoints, centers, *search):
    s = Search(fixed, moving, keypoints, centers, *search)
    out, tile = fixed.new_empty((*s.shape, s.displacements)), s.tile()
    programs = launch.blocks(s.points, tile["BLOCK_N"]) * launch.blocks(s.displacements, tile["BLOCK_L"])
    s.run(_map, programs, out, s.points, s.stride, s.patch_stride, offsets=(out,), **tile)
    return out


def correlate_keypoints_backward(grad, fixed, moving, keypoints, centers, *search_and_needs):
    *search, need_fixed, need_moving = search_and_needs
    s = Search(fixed, moving, keypoints, centers, *search)
    return feature_gradients(s, fixed, moving, need_fixed, need_moving, OF_MAP, grad.contiguous())
