"""Scaling and squaring in Triton: u_0 = v / 2^K, u_{k+1}(x) = u_k(x) + u_k(x + u_k(x)), and its backward.

Forward is one kernel a step; positions and weights are computed once for the D components, whose 24 cells are loaded together. Bytes per
voxel and step in 3-D: 12 (u, its samples from L1 and L2) + 12 (result). The first step scales the velocity while it reads it.

A step of backward is one kernel too. With g the gradient by u_{k+1},
    grad u_k(x) = g(x) + (grad u_k(x + u_k(x)))^T g(x)  +  sum over samples y that touch x of their weight * g(y).
The last term is a scatter, 24 additions a voxel; but while no component of u_k exceeds a voxel, only the 27 voxels around x can touch it,
and the kernel gathers from them: nothing is added to memory, and the order of the sum is fixed. |u_k| <= 2^k |u_0|, so one maximum over
the velocity decides for every step; it stays on the device, and each program looks at it. Bytes a voxel and step: 12 (u) + 12 (g) + 12
(result, written once where it is gathered), 12 more where the result is zeroed for the scatter's atomics. In deterministic mode the
scatter adds 64-bit fixed point numbers.
"""

import torch
import triton
import triton.language as tl

from regkit.kernels import fixed_point, launch, tiles
from regkit.kernels.field import cell_rows, components, field_at, store_components
from regkit.kernels.sampling import BORDER, axis_sample
from regkit.kernels.warp import scatter_cells


@triton.jit
def _square(u, out, scale, ni, nj, nk,
            D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """out = (scale u) o (scale u)."""
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    voxels = tl.cast(ni, OFFSET) * nj * nk
    volume = tl.cast(b, OFFSET) * D * voxels
    at = volume + (tl.cast(i, OFFSET) * nj + j) * nk + k
    s = tl.cast(scale, WORK)
    ui, uj, uk = components(u, at, voxels, inside, D, WORK)
    ui, uj, uk = s * ui, s * uj, s * uk
    vi, vj, vk = field_at(u + volume, i + ui, j + uj, k + uk, inside, ni, nj, nk, D, WORK, OFFSET)
    store_components(out, at, voxels, ui + s * vi, uj + s * vj, uk + s * vk, inside, D)


@triton.jit
def _hat(c, last, q):
    """Weight of cell q in a sample at coordinate c, clamped to the axis."""
    x = tl.minimum(tl.maximum(c, 0.0), last)
    return tl.maximum(1 - tl.abs(x - q), 0.0)


@triton.jit
def _gathered(u, grad, at, i, j, k, inside, scale, ni, nj, nk, D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr):
    """Sum over the 3^D voxels around each voxel of their sample's weight there times their gradient."""
    voxels = tl.cast(ni, OFFSET) * nj * nk
    sum_i, sum_j, sum_k = tl.zeros_like(inside.to(WORK)), tl.zeros_like(inside.to(WORK)), tl.zeros_like(inside.to(WORK))
    last_i, last_j, last_k = tl.cast(ni - 1, WORK), tl.cast(nj - 1, WORK), tl.cast(nk - 1, WORK)
    for y_i in range(tl.maximum(i - 1, 0), tl.minimum(i + 2, ni)):
        for shift_j in tl.static_range(-1, 2):
            for shift_k in tl.static_range(-1, 2):
                y_j, y_k = j + shift_j, k + shift_k
                there = inside & (y_j >= 0) & (y_j < nj) & (y_k >= 0) & (y_k < nk)
                from_y = at + tl.cast(y_i - i, OFFSET) * nj * nk + shift_j * nk + shift_k
                vi, vj, vk = components(u, from_y, voxels, there, D, WORK)
                gi, gj, gk = components(grad, from_y, voxels, there, D, WORK)
                weight = _hat(y_j + scale * vj, last_j, j) * _hat(y_k + scale * vk, last_k, k)
                if D == 3:
                    weight *= _hat(y_i + scale * vi, last_i, i)
                    sum_i += weight * gi
                sum_j += weight * gj
                sum_k += weight * gk
    return sum_i, sum_j, sum_k


@triton.jit
def _cells(field, row, kl, kh, wkl, wkh, skl, skh, inside, WORK: tl.constexpr):
    """Value and slope along k in one row of cells."""
    low = tl.load(field + row + kl, mask=inside, other=0.0).to(WORK)
    high = tl.load(field + row + kh, mask=inside, other=0.0).to(WORK)
    return wkl * low + wkh * high, skl * low + skh * high


@triton.jit
def _square_backward(grad, u, out, sums, unit, largest, grad_scale, scale, ni, nj, nk,
                     D: tl.constexpr, FIXED: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr,
                     BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """The gradient by u' = scale u of sum(grad_scale grad * (u' o u')): in out, or FIXED: in out plus the fixed point numbers of sums.

    `largest` bounds |u'|. Without FIXED, sums is out, and must be zeros.
    """
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    voxels = tl.cast(ni, OFFSET) * nj * nk
    volume = tl.cast(b, OFFSET) * D * voxels
    at = volume + (tl.cast(i, OFFSET) * nj + j) * nk + k
    s, gs = tl.cast(scale, WORK), tl.cast(grad_scale, WORK)
    ui, uj, uk = components(u, at, voxels, inside, D, WORK)
    il, ih, wil, wih, sil, sih = axis_sample(i + s * ui, ni, BORDER)
    jl, jh, wjl, wjh, sjl, sjh = axis_sample(j + s * uj, nj, BORDER)
    kl, kh, wkl, wkh, skl, skh = axis_sample(k + s * uk, nk, BORDER)
    ll, lh, hl, hh = cell_rows(il, ih, jl, jh, nj, nk, OFFSET)
    near = tl.load(largest) <= 1
    step = 1.0 / tl.load(unit) if FIXED else 1.0  # a power of two: exact
    by_i, by_j, by_k = 0 * uj, 0 * uj, 0 * uj
    field, incoming, target = u + volume, grad + at, sums + volume
    for c in range(D):
        g = gs * tl.load(incoming, mask=inside, other=0.0).to(WORK)
        along_ll, step_ll = _cells(field, ll, kl, kh, wkl, wkh, skl, skh, inside, WORK)
        along_lh, step_lh = _cells(field, lh, kl, kh, wkl, wkh, skl, skh, inside, WORK)
        value, slope_j, slope_k = wjl * along_ll + wjh * along_lh, sjl * along_ll + sjh * along_lh, wjl * step_ll + wjh * step_lh
        if D == 3:
            along_hl, step_hl = _cells(field, hl, kl, kh, wkl, wkh, skl, skh, inside, WORK)
            along_hh, step_hh = _cells(field, hh, kl, kh, wkl, wkh, skl, skh, inside, WORK)
            by_i += g * (sil * value + sih * (wjl * along_hl + wjh * along_hh))
            slope_j = wil * slope_j + wih * (sjl * along_hl + sjh * along_hh)
            slope_k = wil * slope_k + wih * (wjl * step_hl + wjh * step_hh)
        by_j += g * slope_j
        by_k += g * slope_k
        if not near:
            scatter_cells(target, g, ll, lh, hl, hh, kl, kh, wil, wih, wjl, wjh, wkl, wkh, step, inside, D, FIXED)
        field += voxels
        incoming += voxels
        target += voxels
    gi, gj, gk = components(grad, at, voxels, inside, D, WORK)
    by_i, by_j, by_k = gs * gi + s * by_i, gs * gj + s * by_j, gs * gk + s * by_k
    if near:
        sum_i, sum_j, sum_k = _gathered(u, grad, at, i, j, k, inside, s, ni, nj, nk, D, WORK, OFFSET)
        by_i, by_j, by_k = by_i + gs * sum_i, by_j + gs * sum_j, by_k + gs * sum_k
    if FIXED or near:
        store_components(out, at, voxels, by_i, by_j, by_k, inside, D)
    else:
        if D == 3:
            tl.atomic_add(out + at, by_i, mask=inside, sem="relaxed")
        tl.atomic_add(out + at + (D - 2) * voxels, by_j, mask=inside, sem="relaxed")
        tl.atomic_add(out + at + (D - 1) * voxels, by_k, mask=inside, sem="relaxed")


def _launch(kernel, *args, u: torch.Tensor, **options) -> None:
    spatial = launch.sizes(u.shape[2:])
    launch.run(
        kernel, tiles.count(u.shape[0], spatial), *args, *spatial, D=u.shape[1], WORK=launch.work_type(u),
        OFFSET=launch.offset_type(u), BLOCK_J=tiles.BLOCK_J, BLOCK_K=tiles.BLOCK_K, **options,
    )  # fmt: skip


def integrate_velocity(velocity, steps, save_steps):
    v = velocity.contiguous()
    dtype = launch.work_dtype(v)
    out = torch.empty_like(v)
    saved = torch.empty((steps * v.shape[0] if save_steps else 0, *v.shape[1:]), dtype=dtype, device=v.device)
    if steps == 0:
        return out.copy_(v), saved if save_steps else saved.flatten()
    if save_steps:
        fields, scale = list(saved.tensor_split(steps)), 1.0
        torch.mul(v.to(dtype), 0.5**steps, out=fields[0])
    else:
        spare = [torch.empty_like(v, dtype=dtype) for _ in range(min(2, steps - 1))]
        fields, scale = [v, *(spare[k % 2] for k in range(steps - 1))], 0.5**steps
    for k, u in enumerate(fields):
        _launch(_square, u, out if k == steps - 1 else fields[k + 1], scale if k == 0 else 1.0, u=u)
    return out, saved if save_steps else saved.flatten()


def integrate_velocity_backward(grad, velocity, saved, steps):
    dtype = launch.work_dtype(grad)
    if steps == 0:
        return grad.clone(memory_format=torch.contiguous_format)
    if saved.dim() > 1:
        fields, scale = list(saved.contiguous().tensor_split(steps)), 1.0
    else:
        fields, scale = [velocity.contiguous()], 0.5**steps
        for k in range(steps - 1):
            fields.append(torch.empty_like(grad, dtype=dtype, memory_format=torch.contiguous_format))
            _launch(_square, fields[k], fields[k + 1], scale if k == 0 else 1.0, u=fields[k])
    largest = fields[0].abs().amax().to(dtype) * scale if grad.numel() else grad.new_zeros((), dtype=dtype)
    g = grad.contiguous()
    for k in reversed(range(steps)):
        u = fields.pop()
        g = _backward_step(g, u, largest * 2.0**k, 0.5**steps if k == 0 else 1.0, scale if k == 0 else 1.0, dtype)
    return g.to(grad.dtype)


def _backward_step(grad, u, largest, grad_scale: float, scale: float, dtype: torch.dtype) -> torch.Tensor:
    # Eight warps: one voxel a thread. With fewer, atomics would be shuffled between threads to be contiguous, which they are not.
    options = dict(u=u, num_warps=8)
    if not launch.deterministic():
        out = torch.zeros(u.shape, dtype=dtype, device=u.device)
        _launch(_square_backward, grad, u, out, out, largest, largest, grad_scale, scale, FIXED=False, **options)
        return out
    # A NaN displacement, which has no fixed-point value, makes the whole gradient NaN.
    bound = grad_scale * grad.abs().amax() + 0 * u.sum() if grad.numel() else grad.new_zeros(())
    unit = fixed_point.unit(bound, u[0, 0].numel() if u.numel() else 1)
    out, sums = torch.empty(u.shape, dtype=dtype, device=u.device), torch.zeros(u.shape, dtype=torch.int64, device=u.device)
    _launch(_square_backward, grad, u, out, sums, unit, largest, grad_scale, scale, FIXED=True, **options)
    return out.add_((sums * unit).to(dtype))
