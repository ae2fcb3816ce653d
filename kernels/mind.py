"""MIND-SSC and its gradient by the image, in Triton. Formulas: csrc/core/mind.h.

Forward, two kernels: the first adds up V, whose mean over the image bounds it; the second computes all again and writes the descriptors.
Bytes per voxel in 3-D: 4 + 4 read, 12 descriptors written: 32 with two bytes each, 56 with four. To store V or the distances in between
would move more bytes than it saves time: they are some 350 operations.

A program marches along i through a few planes of 8 x 32 voxels, one voxel a thread. With radius 1 it keeps the sums of the last two planes
in registers (24 numbers), so that each plane is summed once: 9 x 6 loads a voxel, from L1, where neighbours share them, instead of 27 x 6.
Other radii sum all planes of a box again: they are rare, and a ring of their planes would not fit in registers. Threads share no squares:
what the CPU kernel shares would have to go through shared memory, which Triton does not let a kernel index.

Pooling is a kernel of its own, over descriptors that are stored in full: blocks of any size do not fit the tiles.
Channels-last descriptors are stored four to a store, so that a voxel's come in 3 pieces, not 12.

Backward, gathering, so deterministic and without atomics: the gradients by the 12 distances (48 bytes a voxel), then by the 6 neighbours of
each voxel (24 bytes), then by the voxels that those neighbours are.
"""

import torch
import triton
import triton.language as tl

from regkit.kernels import launch, tiles

PLANES = 16  # that a program marches through

# Neighbours are -i, -k, -j, +k, +i, +j (2-D: without i); channel c compares FIRST[c] with SECOND[c].
FIRST = {2: (1, 2, 3, 3), 3: (1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 5, 5)}
SECOND = {2: (0, 1, 0, 2), 3: (0, 0, 1, 0, 2, 1, 2, 3, 0, 1, 3, 4)}


@triton.jit
def _neighbours(volume, i, j, k, ni, nj, nk, dilation, D: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr):
    """The voxels around voxels (i, j, k), which lie in the volume; so no load needs a mask."""
    plane = volume + tl.cast(i, OFFSET) * nj * nk
    row = tl.cast(j, OFFSET) * nk
    before_k = tl.load(plane + row + tl.maximum(k - dilation, 0)).to(WORK)
    after_k = tl.load(plane + row + tl.minimum(k + dilation, nk - 1)).to(WORK)
    before_j = tl.load(plane + tl.cast(tl.maximum(j - dilation, 0), OFFSET) * nk + k).to(WORK)
    after_j = tl.load(plane + tl.cast(tl.minimum(j + dilation, nj - 1), OFFSET) * nk + k).to(WORK)
    if D == 3:
        before_i = tl.load(volume + tl.cast(tl.maximum(i - dilation, 0), OFFSET) * nj * nk + row + k).to(WORK)
        after_i = tl.load(volume + tl.cast(tl.minimum(i + dilation, ni - 1), OFFSET) * nj * nk + row + k).to(WORK)
        return before_i, before_k, before_j, after_k, after_i, after_j
    else:
        return before_k, before_j, after_k, after_j


# Few small functions here and below: each call costs Triton's interpreter a third of a millisecond.
@triton.jit
def _plane_sums(volume, i, j, k, ni, nj, nk, dilation, A: tl.constexpr, B: tl.constexpr,
                D: tl.constexpr, R: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr):  # fmt: skip
    """For each channel, its squared differences summed over the box around (j, k) in plane i; all clamped."""
    i = tl.minimum(tl.maximum(i, 0), ni - 1)
    zero = (0 * (j + k)).to(WORK)
    sums = ()
    for _ in tl.static_range(len(A)):
        sums = sums + (zero,)
    for o in range(-R, R + 1):
        jj = tl.minimum(tl.maximum(j + o, 0), nj - 1)
        for p in range(-R, R + 1):
            kk = tl.minimum(tl.maximum(k + p, 0), nk - 1)
            around = _neighbours(volume, i, jj, kk, ni, nj, nk, dilation, D, WORK, OFFSET)
            more = ()
            for c in tl.static_range(len(A)):
                difference = around[A[c]] - around[B[c]]
                more = more + (sums[c] + difference * difference,)
            sums = more
    return sums


@triton.jit
def _add(a, b):
    out = ()
    for c in tl.static_range(len(a)):
        out = out + (a[c] + b[c],)
    return out


@triton.jit
def _distances(sums):
    """q = distances above the least of them, and their mean V; both times the voxels of a box, which descriptors do not see."""
    least = sums[0]
    for c in tl.static_range(1, len(sums)):
        least = tl.where(sums[c] < least, sums[c], least)
    q = ()
    variance = 0 * least
    for c in tl.static_range(len(sums)):
        q = q + (sums[c] - least,)
        variance += sums[c] - least
    return q, variance * (1.0 / len(sums))


@triton.jit
def _clamped(variance, mean, BOX: tl.constexpr):
    """V within its bounds, which a NaN mean makes NaN."""
    least: tl.constexpr = 1e-30 * BOX
    low, high = 1e-3 * mean, 1e3 * mean
    low, high = tl.where(low < least, least, low), tl.where(high < least, least, high)
    raised = tl.where(variance > low, variance, low)
    return tl.where(raised < high, raised, high)


@triton.jit
def _write(q, variance, mean, out, at, channel_step, inside, LAST: tl.constexpr, BOX: tl.constexpr):
    scale = -1.0 / _clamped(variance, mean, BOX)
    for c in tl.static_range(0, len(q), 4):
        e0 = tl.exp(q[c] * scale).to(out.dtype.element_ty)
        e1 = tl.exp(q[c + 1] * scale).to(out.dtype.element_ty)
        e2 = tl.exp(q[c + 2] * scale).to(out.dtype.element_ty)
        e3 = tl.exp(q[c + 3] * scale).to(out.dtype.element_ty)
        if LAST:
            four = tl.reshape(tl.join(tl.join(e0, e2), tl.join(e1, e3)), [e0.shape[0], e0.shape[1], 4])
            places = out + at[:, :, None] + (c + tl.arange(0, 4)[None, None, :])
            tl.store(places, four, mask=inside[:, :, None])
        else:
            tl.store(out + at + c * channel_step, e0, mask=inside)
            tl.store(out + at + (c + 1) * channel_step, e1, mask=inside)
            tl.store(out + at + (c + 2) * channel_step, e2, mask=inside)
            tl.store(out + at + (c + 3) * channel_step, e3, mask=inside)


@triton.jit
def _write_gradients(q, variance, mean, grad, at, channel_step, out, voxel, voxels, inside, BOX: tl.constexpr):
    """Gradients by the distances; csrc/cpu/mind_backward.cpp has the formula."""
    clamped = _clamped(variance, mean, BOX)
    inverse = 1.0 / clamped
    pulls = ()
    pull, rest = 0 * variance, 0 * variance
    for c in tl.static_range(len(q)):
        g = tl.load(grad + at + c * channel_step, mask=inside, other=0.0).to(variance.dtype)
        by_q = -g * tl.exp(-q[c] * inverse) * inverse
        pulls = pulls + (by_q,)
        pull -= by_q * q[c]
        rest += by_q
    pull = tl.where(clamped == variance, pull * inverse, 0.0)
    rest += pull
    pull *= 1.0 / len(q)
    for c in tl.static_range(len(q)):
        take = tl.where(q[c] == 0, rest, 0.0)  # the first minimum takes all
        tl.store(out + voxel + c * voxels, pulls[c] + pull - take, mask=inside)
        rest -= take


@triton.jit
def _finish(sums, total, mean, grad, out, i, j, k, nj, nk, voxels, inside,
            MODE: tl.constexpr, LAST: tl.constexpr, BOX: tl.constexpr, OFFSET: tl.constexpr):  # fmt: skip
    """What is done with the sums of a plane's voxels; returns the total of V."""
    q, variance = _distances(sums)
    voxel = (tl.cast(i, OFFSET) * nj + j) * nk + k
    if LAST:
        at, channel_step = voxel * len(q), 1
    else:
        at, channel_step = voxel, voxels
    if MODE == "mean":
        total += tl.where(inside, variance, 0.0)
    elif MODE == "descriptors":
        _write(q, variance, mean, out, at, channel_step, inside, LAST, BOX)
    else:
        _write_gradients(q, variance, mean, grad, at, channel_step, out, voxel, voxels, inside, BOX)
    return total


@triton.jit
def _march(image, means, grad, out, ni, nj, nk, dilation, A: tl.constexpr, B: tl.constexpr, PLANES: tl.constexpr,
           MODE: tl.constexpr, LAST: tl.constexpr, D: tl.constexpr, R: tl.constexpr, BOX: tl.constexpr,
           WORK: tl.constexpr, OFFSET: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """MODE "mean": out (programs,) = sums of V; "descriptors": out = them; "gradients": out (B, channels, voxels) = by the distances."""
    b, chunk, j, k, inside = tiles.tile(tl.cdiv(ni, PLANES), nj, nk, BLOCK_J, BLOCK_K)
    voxels = tl.cast(ni, OFFSET) * nj * nk
    volume = image + tl.cast(b, OFFSET) * voxels
    mean = 0.0
    if MODE != "mean":
        mean = tl.load(means + b)
        out += tl.cast(b, OFFSET) * voxels * len(A)
    if MODE == "gradients":
        grad += tl.cast(b, OFFSET) * voxels * len(A)
    total = tl.zeros([BLOCK_J, BLOCK_K], WORK)
    begin = chunk * PLANES
    end = tl.minimum(begin + PLANES, ni)
    if D == 3 and R == 1:
        below = _plane_sums(volume, begin - 1, j, k, ni, nj, nk, dilation, A, B, D, R, WORK, OFFSET)
        centre = _plane_sums(volume, begin, j, k, ni, nj, nk, dilation, A, B, D, R, WORK, OFFSET)
        for i in range(begin, end):
            above = _plane_sums(volume, i + 1, j, k, ni, nj, nk, dilation, A, B, D, R, WORK, OFFSET)
            sums = _add(_add(below, centre), above)
            total = _finish(sums, total, mean, grad, out, i, j, k, nj, nk, voxels, inside, MODE, LAST, BOX, OFFSET)
            below = centre
            centre = above
    else:
        RI: tl.constexpr = R if D == 3 else 0
        for i in range(begin, end):
            sums = _plane_sums(volume, i - RI, j, k, ni, nj, nk, dilation, A, B, D, R, WORK, OFFSET)
            for o in range(1 - RI, RI + 1):
                sums = _add(sums, _plane_sums(volume, i + o, j, k, ni, nj, nk, dilation, A, B, D, R, WORK, OFFSET))
            total = _finish(sums, total, mean, grad, out, i, j, k, nj, nk, voxels, inside, MODE, LAST, BOX, OFFSET)
    if MODE == "mean":
        tl.store(out + tl.program_id(0), tl.sum(total))


@triton.jit
def _multiplicity(x, y, n, R: tl.constexpr):
    """How many of the 2 R + 1 box offsets around x lead to y on an axis of n voxels whose borders are replicated; 0 for an x outside."""
    distance = tl.abs(x - y)
    on_border = (y == 0) | (y == n - 1)
    count = tl.where(on_border, R - distance + 1, 1)
    count = tl.where(n == 1, 2 * R + 1, tl.where(distance > R, 0, count))
    return tl.where((x >= 0) & (x < n), count, 0)


@triton.jit
def _by_neighbour(image, by_distance, out, ni, nj, nk, dilation, A: tl.constexpr, B: tl.constexpr,
                  D: tl.constexpr, R: tl.constexpr, WORK: tl.constexpr, OFFSET: tl.constexpr,
                  BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """out (B, neighbours, voxels) = gradients by the voxel that each neighbour of each voxel is: boxes transposed."""
    RI: tl.constexpr = R if D == 3 else 0
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    voxels = tl.cast(ni, OFFSET) * nj * nk
    source = by_distance + tl.cast(b, OFFSET) * len(A) * voxels
    zero = tl.zeros([BLOCK_J, BLOCK_K], WORK)
    boxes = ()
    for _ in tl.static_range(len(A)):
        boxes = boxes + (zero,)
    for tap in range((2 * RI + 1) * (2 * R + 1) * (2 * R + 1)):
        x = i + tap // ((2 * R + 1) * (2 * R + 1)) - RI
        y = j + (tap // (2 * R + 1)) % (2 * R + 1) - R
        z = k + tap % (2 * R + 1) - R
        weight = _multiplicity(x, i, ni, RI) * _multiplicity(y, j, nj, R) * _multiplicity(z, k, nk, R)
        x, y, z = tl.minimum(tl.maximum(x, 0), ni - 1), tl.minimum(tl.maximum(y, 0), nj - 1), tl.minimum(tl.maximum(z, 0), nk - 1)
        at = (tl.cast(x, OFFSET) * nj + y) * nk + z
        more = ()
        for c in tl.static_range(len(A)):
            more = more + (boxes[c] + weight.to(WORK) * tl.load(source + c * voxels + at),)
        boxes = more
    jj, kk = tl.minimum(j, nj - 1), tl.minimum(k, nk - 1)
    around = _neighbours(image + tl.cast(b, OFFSET) * voxels, i, jj, kk, ni, nj, nk, dilation, D, WORK, OFFSET)
    at = (tl.cast(b, OFFSET) * (2 * D) * ni + i) * nj * nk + tl.cast(j, OFFSET) * nk + k
    for s in tl.static_range(2 * D):
        by = zero
        for c in tl.static_range(len(A)):
            if A[c] == s:
                by += 2 * (around[s] - around[B[c]]) * boxes[c]
            if B[c] == s:
                by += 2 * (around[s] - around[A[c]]) * boxes[c]
        tl.store(out + at + s * voxels, by, mask=inside)


@triton.jit
def _gather(by_neighbour, out, ni, nj, nk, dilation,
            D: tl.constexpr, OFFSET: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """out (B, voxels) = gradients by the image."""
    b, i, j, k, inside = tiles.tile(ni, nj, nk, BLOCK_J, BLOCK_K)
    voxels = tl.cast(ni, OFFSET) * nj * nk
    voxel = (tl.cast(i, OFFSET) * nj + j) * nk + k
    source = by_neighbour + tl.cast(b, OFFSET) * (2 * D) * voxels + voxel
    total = tl.zeros([BLOCK_J, BLOCK_K], by_neighbour.dtype.element_ty)
    plane = tl.cast(nj, OFFSET) * nk
    i += 0 * j  # a block: the interpreter takes no scalar in a mask
    # A voxel is the neighbour before of the one `dilation` after it; on the border, where neighbours are clamped, of all up to there.
    for t in range(dilation + 1):
        rest = dilation - t
        if D == 3:
            total += tl.load(source + t * plane, mask=inside & (i + t < ni) & (i * rest == 0), other=0.0)
            total += tl.load(source + 4 * voxels - t * plane, mask=inside & (i >= t) & ((ni - 1 - i) * rest == 0), other=0.0)
        total += tl.load(source + (D - 2) * voxels + t, mask=inside & (k + t < nk) & (k * rest == 0), other=0.0)
        total += tl.load(source + (D - 1) * voxels + t * nk, mask=inside & (j + t < nj) & (j * rest == 0), other=0.0)
        total += tl.load(source + D * voxels - t, mask=inside & (k >= t) & ((nk - 1 - k) * rest == 0), other=0.0)
        total += tl.load(source + (2 * D - 1) * voxels - t * nk, mask=inside & (j >= t) & ((nj - 1 - j) * rest == 0), other=0.0)
    tl.store(out + tl.cast(b, OFFSET) * voxels + voxel, total.to(out.dtype.element_ty), mask=inside)


def _options(image: torch.Tensor, radius: int, *tensors: torch.Tensor) -> dict:
    """Compile-time options of kernels that work on an image and these tensors. One voxel a thread."""
    dims = image.dim() - 2
    return dict(
        A=FIRST[dims], B=SECOND[dims], D=dims, R=radius, WORK=launch.work_type(image), OFFSET=launch.offset_type(image, *tensors),
        BLOCK_J=tiles.BLOCK_J, BLOCK_K=tiles.BLOCK_K, num_warps=8,
    )  # fmt: skip


def _march_through(
    x: torch.Tensor, means: torch.Tensor, grad: torch.Tensor, out: torch.Tensor, radius: int, dilation: int, mode: str, last: bool
):
    """_march on all of a contiguous image. Tensors that a mode does not use are stood for by others."""
    spatial = launch.sizes(x.shape[2:])
    launch.run(
        _march, _programs(x), x, means, grad, out, *spatial, dilation, PLANES=PLANES, MODE=mode, LAST=last,
        BOX=float((2 * radius + 1) ** (x.dim() - 2)), **_options(x, radius, grad, out),
    )  # fmt: skip


def _programs(x: torch.Tensor) -> int:
    ni, nj, nk = launch.sizes(x.shape[2:])
    return tiles.count(x.shape[0], (launch.blocks(ni, PLANES), nj, nk))


def _means(x: torch.Tensor, radius: int, dilation: int) -> torch.Tensor:
    """The mean of V of each image of the batch; on the device."""
    partial = torch.empty(_programs(x), dtype=launch.work_dtype(x), device=x.device)
    _march_through(x, partial, partial, partial, radius, dilation, "mean", False)
    return (partial.view(x.shape[0], -1).sum(1, dtype=torch.float64) / x[0].numel()).to(partial.dtype)


def _memory_format(x: torch.Tensor, channels_last: bool) -> torch.memory_format:
    if not channels_last:
        return torch.contiguous_format
    return torch.channels_last_3d if x.dim() == 5 else torch.channels_last


def _blocks(x: torch.Tensor, pool: int) -> torch.Tensor:
    """View of (B, C, *spatial) as (B, C, n / pool, pool, ...); voxels that fill no block are left out."""
    for axis in range(x.dim() - 1, 1, -1):
        count = x.shape[axis] // pool
        x = x.narrow(axis, 0, count * pool).unflatten(axis, (count, pool))
    return x


def _inside_blocks(x: torch.Tensor) -> tuple[int, ...]:
    return tuple(range(3, 2 * x.dim() - 2, 2))


def mind_ssc(image, radius, dilation, pool, dtype, channels_last):
    shape, format = (image.shape[0], len(FIRST[image.dim() - 2]), *image.shape[2:]), _memory_format(image, channels_last)
    out = torch.empty(shape, dtype=dtype, device=image.device, memory_format=format)
    if image.numel():
        x = image.contiguous()
        _march_through(x, _means(x, radius, dilation), out, out, radius, dilation, "descriptors", channels_last)
    return out if pool == 1 else _blocks(out, pool).mean(_inside_blocks(image)).contiguous(memory_format=format)


def mind_ssc_backward(grad, image, radius, dilation, pool):
    out = image.new_empty(image.shape)
    if image.numel() == 0:
        return out
    if pool > 1:
        pooled = grad
        grad = grad.new_zeros((*grad.shape[:2], *image.shape[2:]))
        for axis in _inside_blocks(image):
            pooled = pooled.unsqueeze(axis)
        _blocks(grad, pool).copy_(pooled / pool ** (image.dim() - 2))
    x, spatial = image.contiguous(), launch.sizes(image.shape[2:])
    last = not grad.is_contiguous() and grad.is_contiguous(memory_format=_memory_format(image, True))
    g = grad.contiguous(memory_format=_memory_format(image, last))
    by_distance = torch.empty(grad.shape, dtype=launch.work_dtype(image), device=image.device)
    _march_through(x, _means(x, radius, dilation), g, by_distance, radius, dilation, "gradients", last)
    by_neighbour = by_distance.new_empty(image.shape[0], 2 * (image.dim() - 2), *image.shape[2:])
    options, programs = _options(image, radius, by_distance), tiles.count(image.shape[0], spatial)
    launch.run(_by_neighbour, programs, x, by_distance, by_neighbour, *spatial, dilation, **options)
    for unused in ("A", "B", "R", "WORK"):
        del options[unused]
    launch.run(_gather, programs, by_neighbour, out, *spatial, dilation, **options)
    return out
