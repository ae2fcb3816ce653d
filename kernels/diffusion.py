"""Mean squared forward differences and their gradient in one pass, in Triton. Formulas: csrc/core/diffusion.h.

Bytes a value (float32): 4 read, and 4 written with the gradient. A program takes 8 x 32 voxels of a plane and reads the seven points of the
stencil: one of them comes from memory, those in the plane from L1, those of the planes before and after from L2, which other programs
filled or will use. A march along i would save L2 traffic only, which is far from its limit here.
A program adds its squares into one number of a buffer, which torch sums in float64: the same bits in every run.
"""

import torch
import triton
import triton.language as tl

from regkit.kernels import launch, tiles
from regkit.kernels.neighbours import at_or, number, second_difference


@triton.jit
def _diffusion(u, gradient, partials, ni, nj, nk, weight_i: tl.float64, weight_j: tl.float64, weight_k: tl.float64, scale: tl.float64,
               D: tl.constexpr, GRADIENT: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr,
               BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    volume, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    wj, wk = number(weight_j, WORK), number(weight_k, WORK)
    plane = tl.cast(nj, OFFSET) * nk
    at = (tl.cast(volume, OFFSET) * ni + i) * plane + tl.cast(j, OFFSET) * nk + k
    c = tl.load(u + at, mask=inside, other=0.0).to(WORK)
    j_high = at_or(u + at + nk, inside & (j + 1 < nj), c, WORK)
    k_high = at_or(u + at + 1, inside & (k + 1 < nk), c, WORK)
    energy = wj * (j_high - c) * (j_high - c) + wk * (k_high - c) * (k_high - c)
    if D == 3:
        wi = number(weight_i, WORK)
        row_i = i + 0 * j  # a block: Triton's interpreter cannot combine a mask with a scalar condition
        i_high = at_or(u + at + plane, inside & (row_i + 1 < ni), c, WORK)
        energy += wi * (i_high - c) * (i_high - c)
    tl.store(partials + tl.program_id(0), tl.sum(energy))
    if GRADIENT:
        half = wj * second_difference(at_or(u + at - nk, inside & (j > 0), c, WORK), c, j_high)
        half += wk * second_difference(at_or(u + at - 1, inside & (k > 0), c, WORK), c, k_high)
        if D == 3:
            half += wi * second_difference(at_or(u + at - plane, inside & (row_i > 0), c, WORK), c, i_high)
        tl.store(gradient + at, -2 * number(scale, WORK) * half, mask=inside)


def diffusion_energy(u, spacing, need_gradient):
    x, dtype, count = u.contiguous(), launch.work_dtype(u), u.numel() * len(spacing)
    gradient = x.new_empty(x.shape if need_gradient else 0, dtype=dtype)
    if count == 0:
        return x.new_full((), float("nan"), dtype=dtype), gradient
    # The differences of axis d number numel (n_d - 1) / n_d: one factor in front, and one weight an axis of about 1.
    weights = [n / ((n - 1) * s * s) if n > 1 else 0.0 for n, s in zip(u.shape[2:], spacing)]
    spatial, volumes = launch.sizes(u.shape[2:]), u.shape[0] * u.shape[1]
    partials = x.new_empty(tiles.count(volumes, spatial), dtype=dtype)
    launch.run(
        _diffusion, partials.numel(), x, gradient, partials, *spatial, *launch.sizes(weights, 0.0), 1 / count,
        D=len(spacing), GRADIENT=need_gradient, WORK=launch.work_type(u), OFFSET=launch.offset_type(u),
        BLOCK_J=tiles.BLOCK_J, BLOCK_K=tiles.BLOCK_K,
    )  # fmt: skip
    return (partials.sum(dtype=torch.float64) / count).to(dtype), gradient
