"""Three-tap smoothing along every axis in Triton: it is its own adjoint, borders included, and so its own backward.

Bytes a value (float32): 4 read, 4 written. The stencil has 27 points. A program marches through planes i of a tile of 8 x 32 voxels: it
smooths each plane along j and k from nine points, and blends three smoothed planes that it carries in registers. Only the two planes around
a chunk are smoothed twice.
"""

import torch
import triton
import triton.language as tl

from regkit.kernels import launch, tiles
from regkit.kernels.neighbours import number

PLANES = 16  # that a program marches through


@triton.jit
def _plane(x, row_low, row, row_high, low, high, side, centre, inside, WORK: tl.constexpr):
    """A plane smoothed along j and k. Offsets of three rows at k, and the steps to k - 1 and k + 1, are those of the nearest voxels."""
    total = tl.load(x + row, mask=inside, other=0.0).to(WORK) * centre
    total += (tl.load(x + row_low, mask=inside, other=0.0).to(WORK) + tl.load(x + row_high, mask=inside, other=0.0).to(WORK)) * side
    below = tl.load(x + row + low, mask=inside, other=0.0).to(WORK) + tl.load(x + row + high, mask=inside, other=0.0).to(WORK)
    corners = tl.load(x + row_low + low, mask=inside, other=0.0).to(WORK) + tl.load(x + row_low + high, mask=inside, other=0.0).to(WORK)
    corners += tl.load(x + row_high + low, mask=inside, other=0.0).to(WORK) + tl.load(x + row_high + high, mask=inside, other=0.0).to(WORK)
    return total * centre + (below * centre + corners * side) * side


@triton.jit
def _smooth(x, out, ni, nj, nk, weight: tl.float64, D: tl.constexpr, PLANES: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr,
            BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    volume, chunk, j, k, inside = tiles.tile(tl.cdiv(ni, PLANES), nj, nk, BLOCK_J, BLOCK_K)
    side = number(weight, WORK)
    centre = 1 - 2 * side
    plane = tl.cast(nj, OFFSET) * nk
    source = x + tl.cast(volume, OFFSET) * ni * plane
    row, row_low, row_high = j * nk + k, tl.maximum(j - 1, 0) * nk + k, tl.minimum(j + 1, nj - 1) * nk + k
    low, high = tl.maximum(k - 1, 0) - k, tl.minimum(k + 1, nk - 1) - k
    begin = chunk * PLANES
    here = _plane(source + begin * plane, row_low, row, row_high, low, high, side, centre, inside, WORK)
    before = here
    if D == 3:
        before = _plane(source + tl.maximum(begin - 1, 0) * plane, row_low, row, row_high, low, high, side, centre, inside, WORK)
    for i in range(begin, tl.minimum(begin + PLANES, ni)):
        value = here
        if D == 3:
            after = _plane(source + tl.minimum(i + 1, ni - 1) * plane, row_low, row, row_high, low, high, side, centre, inside, WORK)
            value = side * (before + after) + centre * here
            before, here = here, after
        tl.store(out + (tl.cast(volume, OFFSET) * ni + i) * plane + row, value.to(out.dtype.element_ty), mask=inside)


def smooth(x, side):
    source, spatial = x.contiguous(), launch.sizes(x.shape[2:])
    out = torch.empty_like(source)
    launch.run(
        _smooth, tiles.count(x.shape[0] * x.shape[1], (launch.blocks(spatial[0], PLANES), *spatial[1:])), source, out, *spatial, side,
        D=x.dim() - 2, PLANES=PLANES, WORK=launch.work_type(x), OFFSET=launch.offset_type(x),
        BLOCK_J=tiles.BLOCK_J, BLOCK_K=tiles.BLOCK_K,
    )  # fmt: skip
    return out
