"""Patches around points and their cosine maps for several kernel sizes, in Triton. Formula: regkit/ops/similarity_maps.py.

A value of the largest map, 9^3, takes 729 multiply-adds and 4 bytes are written: 60 FLOP a byte with all of the patch's channels, so that
arithmetic bounds this, if loads do not. They would: a multiply-add for each load from L1 would leave three quarters of the arithmetic idle.
So a program takes ROWS rows (9 of a patch of 27) of one plane, one column a lane, and holds all their sums in registers. For every offset
(i, k) of the kernel it loads each of the ROWS + 8 rows of the moving image once, and uses it for the up to 9 sums that it counts in: 81
multiply-adds for 17 loads and 9 of the fixed kernel's values, which all lanes share.

Kernels are crops of one another, and share their sums too. Offsets (i, k) are taken in rings, one for each kernel size, smallest first;
a tap (i, j, k) belongs to the smallest kernel that holds it, and each of these shells has sums of its own. When a ring is done, so is its
kernel: its dot products are those of the shells so far, and its local norms are sums of squares over the rows' totals of the rings so
far. Nothing is subtracted, so that a dark region beside a bright one keeps its precision.

For a patch of 27 and kernels up to 9 this takes 164 registers on NVIDIA GPUs, no spills, and 12 warps a multiprocessor.
"""

import triton
import triton.language as tl

from regkit.kernels import launch
from regkit.kernels.search import COSINE_EPS, position

MOST_ROWS = 9


@triton.jit
def _clamped(x, n):
    return tl.minimum(tl.maximum(x, 0), n - 1)


@triton.jit
def _add(values, INDEX: tl.constexpr, value):
    """A tuple of sums with `value` added to one of them."""
    return values[:INDEX] + (values[INDEX] + value,) + values[INDEX + 1 :]


@triton.jit
def _ring(dots, squares, kernel_squares, f_image, m_image, xi, xj, xk, i, j, k, fi, fj, fk, mi, mj, mk, RING: tl.constexpr,
          RADII: tl.constexpr, SHELLS: tl.constexpr, REACH: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
          OFFSET: tl.constexpr):  # fmt: skip
    """Adds what the offsets (i, k) in the ring INNER < max(|i|, |k|) <= RADIUS contribute to the sums."""
    RADIUS: tl.constexpr = RADII[RING]
    INNER: tl.constexpr = RADII[RING - 1] if RING > 0 else -1
    TAPS: tl.constexpr = 2 * REACH + 1
    REACH_I: tl.constexpr = RADIUS if D == 3 else 0
    for ti in range(-REACH_I, REACH_I + 1):
        plane = xi + ti
        across = (plane <= xi + INNER) & (plane >= xi - INNER)  # this line of the ring has a hole in its middle
        f_plane = f_image + _clamped(plane, fi).to(OFFSET) * fj * fk
        m_plane = m_image + _clamped(i + ti, mi).to(OFFSET) * mj * mk
        for t in range(tl.where(across, 2 * (RADIUS - INNER), 2 * RADIUS + 1)):
            tk = t - RADIUS + tl.where(across & (xi + t >= xi + RADIUS - INNER), 2 * INNER + 1, 0)
            f_column, m_column = f_plane + _clamped(xk + tk, fk), m_plane + _clamped(k + tk, mk)
            kernel = ()
            for tj in tl.static_range(TAPS):
                f = tl.load(f_column + _clamped(xj + tj - REACH, fj).to(OFFSET) * fk).to(dots[0].dtype)
                kernel = kernel + (f,)
                kernel_squares = _add(kernel_squares, SHELLS[RING * TAPS + tj], f * f)
            for r in tl.static_range(ROWS + 2 * REACH):
                m = tl.load(m_column + _clamped(j + r - REACH, mj).to(OFFSET) * mk).to(dots[0].dtype)
                squares = _add(squares, r, m * m)
                for tj in tl.static_range(TAPS):
                    if r - tj >= 0 and r - tj < ROWS:
                        dots = _add(dots, SHELLS[RING * TAPS + tj] * ROWS + r - tj, kernel[tj] * m)
    return dots, squares, kernel_squares


@triton.jit
def _maps(fixed, moving, points, out, count, fi, fj, fk, mi, mj, mk,
          PATCH: tl.constexpr, RADII: tl.constexpr, MAPS: tl.constexpr, SHELLS: tl.constexpr, CHANNELS: tl.constexpr, REACH: tl.constexpr,
          ROWS: tl.constexpr, BLOCK_K: tl.constexpr, D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr):  # fmt: skip
    """RADII: of the kernels, ascending. MAPS: their maps in the result. SHELLS: of ring q and offset j, at q (2 REACH + 1) + REACH + j."""
    BLOCKS: tl.constexpr = (PATCH + ROWS - 1) // ROWS
    PLANES: tl.constexpr = PATCH if D == 3 else 1
    HALF: tl.constexpr = PATCH // 2
    point = tl.program_id(0) // (BLOCKS * PLANES)
    plane = tl.program_id(0) // BLOCKS % PLANES
    first = tl.program_id(0) % BLOCKS * ROWS
    b = (point // count).to(OFFSET)
    xi, xj, xk = position(points, point, D)
    f_image, m_image = fixed + b * fi * fj * fk, moving + b * mi * mj * mk
    column = tl.arange(0, BLOCK_K)
    i, j, k = xi, xj + first - HALF, xk + column - HALF
    if D == 3:
        i += plane - HALF
    VOXELS: tl.constexpr = PLANES * PATCH * PATCH
    target = out + point.to(OFFSET) * (CHANNELS * VOXELS) + (plane * PATCH + first) * PATCH + column
    for r in tl.static_range(ROWS):
        inside = (column < PATCH) & (0 * column + first + r < PATCH)
        f = tl.load(f_image + (_clamped(i, fi).to(OFFSET) * fj + _clamped(j + r, fj)) * fk + _clamped(k, fk), mask=inside, other=0.0)
        m = tl.load(m_image + (_clamped(i, mi).to(OFFSET) * mj + _clamped(j + r, mj)) * mk + _clamped(k, mk), mask=inside, other=0.0)
        tl.store(target + r * PATCH, f.to(out.dtype.element_ty), mask=inside)
        tl.store(target + VOXELS + r * PATCH, m.to(out.dtype.element_ty), mask=inside)

    none = tl.zeros([BLOCK_K], WORK)
    dots, squares, kernel_squares = (none,) * (len(RADII) * ROWS), (none,) * (ROWS + 2 * REACH), (tl.cast(0.0, WORK),) * len(RADII)
    dot, kernel_square = (none,) * ROWS, tl.cast(0.0, WORK)  # of all shells up to the ring's
    for q in tl.static_range(len(RADII)):
        dots, squares, kernel_squares = _ring(
            dots, squares, kernel_squares, f_image, m_image, xi, xj, xk, i, j, k, fi, fj, fk, mi, mj, mk,
            q, RADII, SHELLS, REACH, ROWS, D, OFFSET,
        )  # fmt: skip
        kernel_square += kernel_squares[q]
        for r in tl.static_range(ROWS):
            dot = _add(dot, r, dots[q * ROWS + r])
            local = squares[r + REACH]
            for t in tl.static_range(1, RADII[q] + 1):
                local += squares[r + REACH - t] + squares[r + REACH + t]
            similarity = dot[r] / (tl.sqrt(kernel_square) * tl.sqrt(local) + COSINE_EPS)
            inside = (column < PATCH) & (0 * column + first + r < PATCH)
            tl.store(target + (2 + MAPS[q]) * VOXELS + r * PATCH, similarity.to(out.dtype.element_ty), mask=inside)


def similarity_maps(fixed, moving, points, patch_size, kernel_sizes):
    dims, sizes = fixed.dim() - 2, sorted(set(kernel_sizes))
    radii = tuple(size // 2 for size in sizes)
    maps, reach = tuple(kernel_sizes.index(size) for size in sizes), max(radii, default=0)
    # A tap at offset j in ring q lies in the shell of whichever is larger.
    alone = [next(s for s, radius in enumerate(radii) if abs(j) <= radius) for j in range(-reach, reach + 1) if radii]
    shells = tuple(max(q, shell) for q in range(len(radii)) for shell in alone)
    out = fixed.new_empty((*points.shape[:2], 2 + len(kernel_sizes), *[patch_size] * dims))
    blocks = launch.blocks(patch_size, MOST_ROWS)
    block_k = max(16, triton.next_power_of_2(patch_size))
    launch.run(
        _maps, points.shape[0] * points.shape[1] * blocks * (patch_size if dims == 3 else 1),
        fixed.contiguous(), moving.contiguous(), points.contiguous(), out, points.shape[1],
        *launch.sizes(fixed.shape[2:]), *launch.sizes(moving.shape[2:]),
        PATCH=patch_size, RADII=radii, MAPS=maps, SHELLS=shells, CHANNELS=2 + len(kernel_sizes), REACH=reach,
        ROWS=launch.blocks(patch_size, blocks), BLOCK_K=block_k, D=dims, WORK=launch.work_type(fixed, moving),
        OFFSET=launch.offset_type(fixed, moving, out), num_warps=min(max(block_k // 32, 1), 8),
    )  # fmt: skip
    for number, size in enumerate(kernel_sizes):
        if kernel_sizes.index(size) < number:  # asked for twice
            out[:, :, 2 + number] = out[:, :, 2 + kernel_sizes.index(size)]
    return out
