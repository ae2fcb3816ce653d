"""out(x) = image(x + u(x)), its gradients, and the composition of displacements, in Triton. Formulas: csrc/core/warp.h.

The identity grid is implicit: bytes per voxel in 3-D with C channels of 4 bytes are 12 + 8C forward (displacement, image, result) and
24 + 8C for the gradient by the displacement (displacement, image, gradient in, gradient out). The cells of neighbouring samples overlap, so
they come from L1 and L2; tiles of 8 x 32 voxels keep those of a tile together while every row of 32 is read and written as one line.
One program goes through all channels, so that positions and weights are computed once.

The gradient by the image is a scatter: float atomics, or in deterministic mode 64-bit fixed-point ones (an addition of integers does not
depend on its order). It is computed only where autograd needs it.
"""

import torch
import triton
import triton.language as tl

from regkit.kernels import fixed_point, launch, tiles
from regkit.kernels.neighbours import number
from regkit.kernels.sampling import axis_nearest, axis_sample


@triton.jit
def displaced(u, b, i, j, k, inside, ni, nj, nk, D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr):
    """x + u(x) along i, j, k for a tile (i is 0 in 2-D), and the offset of u's first component at the tile's voxels."""
    voxels = tl.cast(ni, OFFSET) * nj * nk
    at = tl.cast(b, OFFSET) * D * voxels + (tl.cast(i, OFFSET) * nj + j) * nk + k
    if D == 3:
        ci = i + tl.load(u + at, mask=inside, other=0.0).to(WORK)
        cj = j + tl.load(u + at + voxels, mask=inside, other=0.0).to(WORK)
        ck = k + tl.load(u + at + 2 * voxels, mask=inside, other=0.0).to(WORK)
    else:
        cj = j + tl.load(u + at, mask=inside, other=0.0).to(WORK)
        ck = k + tl.load(u + at + voxels, mask=inside, other=0.0).to(WORK)
        ci = 0 * cj
    return ci, cj, ck, at


@triton.jit
def cells_around(ci, cj, ck, mi, mj, mk, PADDING: tl.constexpr, D: tl.constexpr, OFFSET: tl.constexpr):
    """Of samples at (ci, cj, ck) in an image of mi mj mk cells: offsets of the rows of cells along (i, j), low and high; the cells along k;
    weights and slopes, low and high, along i, j and k. In 2-D all of i is in the lower rows."""
    jl, jh, wjl, wjh, sjl, sjh = axis_sample(cj, mj, PADDING)
    kl, kh, wkl, wkh, skl, skh = axis_sample(ck, mk, PADDING)
    if D == 3:
        il, ih, wil, wih, sil, sih = axis_sample(ci, mi, PADDING)
        row_ll, row_lh = (tl.cast(il, OFFSET) * mj + jl) * mk, (tl.cast(il, OFFSET) * mj + jh) * mk
        row_hl, row_hh = (tl.cast(ih, OFFSET) * mj + jl) * mk, (tl.cast(ih, OFFSET) * mj + jh) * mk
    else:
        row_ll, row_lh = tl.cast(jl, OFFSET) * mk, tl.cast(jh, OFFSET) * mk
        row_hl, row_hh = row_ll, row_lh
        wil, wih, sil, sih = 1.0 + 0 * wjl, 0 * wjl, 0 * wjl, 0 * wjl
    return row_ll, row_lh, row_hl, row_hh, kl, kh, wil, wih, sil, sih, wjl, wjh, sjl, sjh, wkl, wkh, skl, skh


@triton.jit
def _row(image, row, low, high, inside, fill, WORK: tl.constexpr):
    """The two cells of a row of cells, less the fill."""
    return tl.load(image + row + low, mask=inside, other=0.0).to(WORK) - fill, tl.load(image + row + high, mask=inside, other=0.0).to(
        WORK
    ) - fill


@triton.jit
def _forward(image, u, out, channels, mi, mj, mk, ni, nj, nk, fill: tl.float64,
             D: tl.constexpr, PADDING: tl.constexpr, COMPOSE: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr,
             BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    fill = number(fill, WORK)
    ci, cj, ck, at = displaced(u, b, i, j, k, inside, ni, nj, nk, D, WORK, OFFSET)
    row_ll, row_lh, row_hl, row_hh, kl, kh, wil, wih, sil, sih, wjl, wjh, sjl, sjh, wkl, wkh, skl, skh = cells_around(
        ci, cj, ck, mi, mj, mk, PADDING, D, OFFSET
    )
    cells, voxels = tl.cast(mi, OFFSET) * mj * mk, tl.cast(ni, OFFSET) * nj * nk
    source = image + tl.cast(b, OFFSET) * channels * cells
    target = out + tl.cast(b, OFFSET) * (channels - D) * voxels + at
    for c in range(channels):
        low, high = _row(source, row_ll, kl, kh, inside, fill, WORK)
        value = wjl * (wkl * low + wkh * high)
        low, high = _row(source, row_lh, kl, kh, inside, fill, WORK)
        value += wjh * (wkl * low + wkh * high)
        if D == 3:
            low, high = _row(source, row_hl, kl, kh, inside, fill, WORK)
            upper = wjl * (wkl * low + wkh * high)
            low, high = _row(source, row_hh, kl, kh, inside, fill, WORK)
            upper += wjh * (wkl * low + wkh * high)
            value = wil * value + wih * upper
        value += fill
        if COMPOSE:
            value += tl.load(u + at + c * voxels, mask=inside, other=0.0).to(WORK)
        tl.store(target, value.to(out.dtype.element_ty), mask=inside)
        source += cells
        target += voxels


@triton.jit
def _grad_displacement(grad, image, u, out, channels, mi, mj, mk, ni, nj, nk, fill: tl.float64,
                       D: tl.constexpr, PADDING: tl.constexpr, COMPOSE: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr,
                       BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    fill = number(fill, WORK)
    ci, cj, ck, at = displaced(u, b, i, j, k, inside, ni, nj, nk, D, WORK, OFFSET)
    row_ll, row_lh, row_hl, row_hh, kl, kh, wil, wih, sil, sih, wjl, wjh, sjl, sjh, wkl, wkh, skl, skh = cells_around(
        ci, cj, ck, mi, mj, mk, PADDING, D, OFFSET
    )
    cells, voxels = tl.cast(mi, OFFSET) * mj * mk, tl.cast(ni, OFFSET) * nj * nk
    source = image + tl.cast(b, OFFSET) * channels * cells
    incoming = grad + tl.cast(b, OFFSET) * (channels - D) * voxels + at
    by_i, by_j, by_k = 0 * cj, 0 * cj, 0 * cj
    for c in range(channels):
        g = tl.load(incoming, mask=inside, other=0.0).to(WORK)
        low, high = _row(source, row_ll, kl, kh, inside, fill, WORK)
        along_ll, step_ll = wkl * low + wkh * high, skl * low + skh * high
        low, high = _row(source, row_lh, kl, kh, inside, fill, WORK)
        along_lh, step_lh = wkl * low + wkh * high, skl * low + skh * high
        value, slope_j, slope_k = wjl * along_ll + wjh * along_lh, sjl * along_ll + sjh * along_lh, wjl * step_ll + wjh * step_lh
        if D == 3:
            low, high = _row(source, row_hl, kl, kh, inside, fill, WORK)
            along_hl, step_hl = wkl * low + wkh * high, skl * low + skh * high
            low, high = _row(source, row_hh, kl, kh, inside, fill, WORK)
            along_hh, step_hh = wkl * low + wkh * high, skl * low + skh * high
            by_i += g * (sil * value + sih * (wjl * along_hl + wjh * along_hh))
            slope_j = wil * slope_j + wih * (sjl * along_hl + sjh * along_hh)
            slope_k = wil * slope_k + wih * (wjl * step_hl + wjh * step_hh)
        by_j += g * slope_j
        by_k += g * slope_k
        source += cells
        incoming += voxels
    if COMPOSE:
        direct = grad + at  # of v in v(x) + u(x + v(x)): one component each, and there are D channels
        if D == 3:
            by_i += tl.load(direct, mask=inside, other=0.0).to(WORK)
        by_j += tl.load(direct + (D - 2) * voxels, mask=inside, other=0.0).to(WORK)
        by_k += tl.load(direct + (D - 1) * voxels, mask=inside, other=0.0).to(WORK)
    if D == 3:
        tl.store(out + at, by_i.to(out.dtype.element_ty), mask=inside)
    tl.store(out + at + (D - 2) * voxels, by_j.to(out.dtype.element_ty), mask=inside)
    tl.store(out + at + (D - 1) * voxels, by_k.to(out.dtype.element_ty), mask=inside)


@triton.jit
def scatter(target, value, per_unit, inside, FIXED: tl.constexpr):
    """target += value; as a 64-bit fixed point number, of which `per_unit` make one, if FIXED."""
    if FIXED:
        value = tl.floor(value.to(tl.float64) * per_unit + 0.5).to(tl.int64)
    tl.atomic_add(target, value, mask=inside, sem="relaxed")


@triton.jit
def scatter_cells(target, g, ll, lh, hl, hh, kl, kh, wil, wih, wjl, wjh, wkl, wkh, per_unit, inside,
                  D: tl.constexpr, FIXED: tl.constexpr):  # fmt: skip
    """Adds g to the cells around its samples, by their weights. ll .. hh: offsets of the rows of cells along (i, j); hl, hh are 3-D's."""
    lower = wil * g
    scatter(target + ll + kl, lower * wjl * wkl, per_unit, inside, FIXED)
    scatter(target + ll + kh, lower * wjl * wkh, per_unit, inside, FIXED)
    scatter(target + lh + kl, lower * wjh * wkl, per_unit, inside, FIXED)
    scatter(target + lh + kh, lower * wjh * wkh, per_unit, inside, FIXED)
    if D == 3:
        upper = wih * g
        scatter(target + hl + kl, upper * wjl * wkl, per_unit, inside, FIXED)
        scatter(target + hl + kh, upper * wjl * wkh, per_unit, inside, FIXED)
        scatter(target + hh + kl, upper * wjh * wkl, per_unit, inside, FIXED)
        scatter(target + hh + kh, upper * wjh * wkh, per_unit, inside, FIXED)


@triton.jit
def _grad_image(grad, u, out, unit, channels, mi, mj, mk, ni, nj, nk,
                D: tl.constexpr, PADDING: tl.constexpr, FIXED: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr,
                BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    ci, cj, ck, at = displaced(u, b, i, j, k, inside, ni, nj, nk, D, WORK, OFFSET)
    step = 1.0 / tl.load(unit) if FIXED else 1.0  # a power of two: exact
    row_ll, row_lh, row_hl, row_hh, kl, kh, wil, wih, sil, sih, wjl, wjh, sjl, sjh, wkl, wkh, skl, skh = cells_around(
        ci, cj, ck, mi, mj, mk, PADDING, D, OFFSET
    )
    cells, voxels = tl.cast(mi, OFFSET) * mj * mk, tl.cast(ni, OFFSET) * nj * nk
    target = out + tl.cast(b, OFFSET) * channels * cells
    incoming = grad + tl.cast(b, OFFSET) * (channels - D) * voxels + at
    for c in range(channels):
        g = tl.load(incoming, mask=inside, other=0.0).to(WORK)
        scatter_cells(
            target, g, row_ll, row_lh, row_hl, row_hh, kl, kh, wil, wih, wjl, wjh, wkl, wkh, step, inside, D, FIXED,
        )  # fmt: skip
        target += cells
        incoming += voxels


@triton.jit
def _nearest(image, u, out, fill, channels, mi, mj, mk, ni, nj, nk,
             D: tl.constexpr, PADDING: tl.constexpr, OFFSET: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    ci, cj, ck, at = displaced(u, b, i, j, k, inside, ni, nj, nk, D, tl.float32, OFFSET)
    cell_j, in_j = axis_nearest(cj, mj, PADDING)
    cell_k, in_k = axis_nearest(ck, mk, PADDING)
    offset, covered = tl.cast(cell_j, OFFSET) * mk + cell_k, inside & in_j & in_k
    if D == 3:
        cell_i, in_i = axis_nearest(ci, mi, PADDING)
        offset, covered = offset + tl.cast(cell_i, OFFSET) * mj * mk, covered & in_i
    cells, voxels = tl.cast(mi, OFFSET) * mj * mk, tl.cast(ni, OFFSET) * nj * nk
    source = image + tl.cast(b, OFFSET) * channels * cells + offset
    target = out + tl.cast(b, OFFSET) * (channels - D) * voxels + at
    outside = tl.load(fill)
    for c in range(channels):
        value = tl.where(covered, tl.load(source, mask=covered, other=0), outside)
        tl.store(target, value, mask=inside)
        source += cells
        target += voxels


def _launch(kernel, *args, image: torch.Tensor, u: torch.Tensor, **options) -> None:
    """The kernel on all tiles of the displacement's voxels; `image` gives the image's shape."""
    spatial = launch.sizes(u.shape[2:])
    tail = (options.pop("fill"),) if "fill" in options else ()
    launch.run(
        kernel, tiles.count(u.shape[0], spatial), *args, image.shape[1], *launch.sizes(image.shape[2:]), *spatial, *tail,
        D=u.shape[1], OFFSET=launch.offset_type(image, u), BLOCK_J=tiles.BLOCK_J, BLOCK_K=tiles.BLOCK_K, **options,
    )  # fmt: skip


def sample(image: torch.Tensor, u: torch.Tensor, out: torch.Tensor, padding: int, fill: float, compose: bool = False) -> None:
    """out = image(x + u(x)), plus u(x) if `compose`; all contiguous."""
    _launch(_forward, image, u, out, image=image, u=u, fill=fill, PADDING=padding, COMPOSE=compose, WORK=launch.work_type(image, u))


def grad_displacement(grad, image, u, out, padding: int, fill: float, compose: bool = False) -> None:
    """out = d sum(grad * sample(image, u)) / du; all contiguous."""
    work = launch.work_type(image, u)
    _launch(_grad_displacement, grad, image, u, out, image=image, u=u, fill=fill, PADDING=padding, COMPOSE=compose, WORK=work)


def grad_image(grad: torch.Tensor, u: torch.Tensor, like: torch.Tensor, padding: int) -> torch.Tensor:
    """d sum(grad * sample(image, u)) / d image, for an image like `like`; grad and u contiguous."""
    dtype = launch.work_dtype(like, u)
    # Eight warps: one voxel a thread. With two, their atomics would be shuffled between threads to be contiguous, which they are not.
    options = dict(image=like, u=u, PADDING=padding, WORK=launch.work_type(like, u), num_warps=8)
    if not launch.deterministic():
        out = torch.zeros(like.shape, dtype=dtype, device=like.device)
        _launch(_grad_image, grad, u, out, out, FIXED=False, **options)
        return out.to(like.dtype)
    # A NaN displacement, which has no fixed-point value, makes the whole gradient NaN.
    largest = grad.abs().amax() + 0 * u.sum() if grad.numel() else grad.new_zeros(())
    unit = fixed_point.unit(largest, u[0, 0].numel() if u.numel() else 1)
    out = torch.zeros(like.shape, dtype=torch.int64, device=like.device)
    _launch(_grad_image, grad, u, out, unit, FIXED=True, **options)
    return (out * unit).to(like.dtype)


def warp(image, displacement, padding, fill):
    out = image.new_empty((*image.shape[:2], *displacement.shape[2:]))
    sample(image.contiguous(), displacement.contiguous(), out, padding, fill)
    return out


def warp_backward(grad, image, displacement, padding, fill, need_image, need_displacement):
    g, u = grad.contiguous(), displacement.contiguous()
    by_image, by_u = image.new_empty(0), displacement.new_empty(0)
    if need_image:
        by_image = grad_image(g, u, image, padding)
    if need_displacement:
        by_u = torch.empty_like(u)
        grad_displacement(g, image.contiguous(), u, by_u, padding, fill)
    return by_image, by_u


def warp_nearest(image, displacement, padding, fill):
    out = image.new_empty((*image.shape[:2], *displacement.shape[2:]))
    outside = torch.full((), fill, dtype=torch.float64, device=image.device).to(image.dtype)
    _launch(_nearest, *(x.contiguous() for x in (image, displacement)), out, outside, image=image, u=displacement, PADDING=padding)
    return out
