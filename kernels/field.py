"""A displacement field sampled with its border repeated, all D components at once. Formulas: csrc/core/warp.h with border padding."""

import triton
import triton.language as tl

from regkit.kernels.sampling import BORDER, axis_sample


@triton.jit
def cell_rows(il, ih, jl, jh, nj, nk, OFFSET: tl.constexpr):
    """Offsets of the four rows of cells around samples: (low, low), (low, high), (high, low), (high, high) along (i, j)."""
    low, high = tl.cast(il, OFFSET) * nj, tl.cast(ih, OFFSET) * nj
    return (low + jl) * nk, (low + jh) * nk, (high + jl) * nk, (high + jh) * nk


@triton.jit
def _component(field, rows_ll, rows_lh, rows_hl, rows_hh, kl, kh, wil, wih, wjl, wjh, wkl, wkh, inside,
               D: tl.constexpr, WORK: tl.constexpr):  # fmt: skip
    value = wjl * (
        wkl * tl.load(field + rows_ll + kl, mask=inside, other=0.0).to(WORK)
        + wkh * tl.load(field + rows_ll + kh, mask=inside, other=0.0).to(WORK)
    )
    value += wjh * (
        wkl * tl.load(field + rows_lh + kl, mask=inside, other=0.0).to(WORK)
        + wkh * tl.load(field + rows_lh + kh, mask=inside, other=0.0).to(WORK)
    )
    if D == 3:
        upper = wjl * (
            wkl * tl.load(field + rows_hl + kl, mask=inside, other=0.0).to(WORK)
            + wkh * tl.load(field + rows_hl + kh, mask=inside, other=0.0).to(WORK)
        )
        upper += wjh * (
            wkl * tl.load(field + rows_hh + kl, mask=inside, other=0.0).to(WORK)
            + wkh * tl.load(field + rows_hh + kh, mask=inside, other=0.0).to(WORK)
        )
        value = wil * value + wih * upper
    return value


@triton.jit
def field_at(field, ci, cj, ck, inside, ni, nj, nk, D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr):
    """The components along i, j, k of a volume's field at coordinates (ci, cj, ck); that along i is 0 in 2-D."""
    il, ih, wil, wih, sil, sih = axis_sample(ci, ni, BORDER)
    jl, jh, wjl, wjh, sjl, sjh = axis_sample(cj, nj, BORDER)
    kl, kh, wkl, wkh, skl, skh = axis_sample(ck, nk, BORDER)
    ll, lh, hl, hh = cell_rows(il, ih, jl, jh, nj, nk, OFFSET)
    voxels = tl.cast(ni, OFFSET) * nj * nk
    vk = _component(field + (D - 1) * voxels, ll, lh, hl, hh, kl, kh, wil, wih, wjl, wjh, wkl, wkh, inside, D, WORK)
    vj = _component(field + (D - 2) * voxels, ll, lh, hl, hh, kl, kh, wil, wih, wjl, wjh, wkl, wkh, inside, D, WORK)
    if D == 3:
        vi = _component(field, ll, lh, hl, hh, kl, kh, wil, wih, wjl, wjh, wkl, wkh, inside, D, WORK)
    else:
        vi = 0 * vj
    return vi, vj, vk


@triton.jit
def components(field, at, voxels, inside, D: tl.constexpr, WORK: tl.constexpr):
    """The components along i, j, k of a field at a tile's voxels, `at` being the offset of the first; that along i is 0 in 2-D."""
    vj = tl.load(field + at + (D - 2) * voxels, mask=inside, other=0.0).to(WORK)
    vk = tl.load(field + at + (D - 1) * voxels, mask=inside, other=0.0).to(WORK)
    if D == 3:
        vi = tl.load(field + at, mask=inside, other=0.0).to(WORK)
    else:
        vi = 0 * vj
    return vi, vj, vk


@triton.jit
def store_components(out, at, voxels, vi, vj, vk, inside, D: tl.constexpr):
    dtype: tl.constexpr = out.dtype.element_ty
    if D == 3:
        tl.store(out + at, vi.to(dtype), mask=inside)
    tl.store(out + at + (D - 2) * voxels, vj.to(dtype), mask=inside)
    tl.store(out + at + (D - 1) * voxels, vk.to(dtype), mask=inside)
