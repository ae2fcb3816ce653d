"""out(x) = image(x + u(x)) in plain torch. One axis at a time: indices, weights; then the sum over the 2^D corners."""

from itertools import product

import torch

ZEROS, BORDER, EXTENT = range(3)


def positions(displacement: torch.Tensor) -> list[torch.Tensor]:
    """x + u(x) for each axis, (B, *spatial) each."""
    spatial = displacement.shape[2:]
    index = [torch.arange(n, dtype=displacement.dtype, device=displacement.device) for n in spatial]
    return [displacement[:, d] + axis for d, axis in enumerate(torch.meshgrid(*index, indexing="ij"))]


def axis_weights(c: torch.Tensor, n: int, padding: int):
    """Per corner (low, high): a valid index, its weight, and the weight's derivative by c; both are 0 where the cell does not count."""
    if padding == ZEROS:
        x = c.clamp(-2, n + 1)
        low = x.nan_to_num(0.0).floor()
        weights = [torch.where(((cell >= 0) & (cell < n)) | c.isnan(), w, 0.0) for cell, w in ((low, 1 - (x - low)), (low + 1, x - low))]
        slopes = [torch.where((cell >= 0) & (cell < n), s, 0.0).to(c.dtype) for cell, s in ((low, -1.0), (low + 1, 1.0))]
    else:
        x = c.clamp(0, n - 1)
        low = x.nan_to_num(0.0).floor()
        weights = [1 - (x - low), x - low]
        moves = (c >= 0) & (c <= n - 1) & (n > 1)
        slopes = [torch.where(moves, s, 0.0).to(c.dtype) for s in (-1.0, 1.0)]
        if padding == EXTENT:
            covered = ((c >= -0.5) & (c <= n - 0.5)) | c.isnan()
            weights = [torch.where(covered, w, 0.0) for w in weights]
    slopes = [torch.where(c.isnan(), c, s) for s in slopes]
    return [((low + i).clamp(0, n - 1).long(), w, s) for i, (w, s) in enumerate(zip(weights, slopes))]


def flat_index(index: list[torch.Tensor], spatial: torch.Size, channels: int) -> torch.Tensor:
    """Integer positions, one (B, *out) tensor an axis -> (B, C, prod(out)) offsets into a flattened image."""
    flat = torch.zeros_like(index[0])
    for n, i in zip(spatial, index):
        flat = flat * n + i
    return flat.flatten(1)[:, None].expand(-1, channels, -1)


def gather(image: torch.Tensor, index: list[torch.Tensor]) -> torch.Tensor:
    """image (B, C, *in) at integer positions -> (B, C, *out)."""
    flat = flat_index(index, image.shape[2:], image.shape[1])
    return as_signed(image).flatten(2).gather(2, flat).reshape(*image.shape[:2], *index[0].shape[1:])


def as_signed(x: torch.Tensor) -> torch.Tensor:
    """The same bits in a dtype that torch can gather and select: it can't with uint16, uint32 and uint64."""
    return x.view({torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}.get(x.dtype, x.dtype))


def working_dtype(*tensors: torch.Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def corners(image: torch.Tensor, displacement: torch.Tensor, padding: int, dtype: torch.dtype):
    """The 2^D corners around each sample: one (index, weight, slope) per axis."""
    return product(*(axis_weights(c, n, padding) for c, n in zip(positions(displacement.to(dtype)), image.shape[2:])))


def warp(image: torch.Tensor, displacement: torch.Tensor, padding: int, fill: float) -> torch.Tensor:
    dtype = working_dtype(image, displacement)
    moving = image.to(dtype) - fill
    out = torch.zeros((*image.shape[:2], *displacement.shape[2:]), dtype=dtype, device=image.device)
    for corner in corners(image, displacement, padding, dtype):
        weight = torch.stack([w for _, w, _ in corner]).prod(0)
        out += weight[:, None] * gather(moving, [i for i, _, _ in corner])
    return (out + fill).to(image.dtype)


def warp_backward(grad, image, displacement, padding, fill, need_image, need_displacement):
    dtype = working_dtype(image, displacement)
    g, moving = grad.to(dtype), image.to(dtype) - fill
    grad_image, grad_u = moving.new_zeros(moving.shape), torch.zeros_like(displacement, dtype=dtype)  # contiguous: flatten must not copy it
    for corner in corners(image, displacement, padding, dtype):
        index, weights, slopes = zip(*corner)
        weight = torch.stack(weights).prod(0)[:, None]
        grad_image.flatten(2).scatter_add_(2, flat_index(list(index), image.shape[2:], image.shape[1]), (weight * g).flatten(2))
        along = (g * gather(moving, list(index))).sum(1)
        for d in range(len(corner)):
            factors = [slopes[e] if e == d else weights[e] for e in range(len(corner))]
            grad_u[:, d] += torch.stack(factors).prod(0) * along
    return (
        grad_image.to(image.dtype) if need_image else image.new_empty(0),
        grad_u.to(displacement.dtype) if need_displacement else displacement.new_empty(0),
    )


def warp_nearest(image: torch.Tensor, displacement: torch.Tensor, padding: int, fill: float) -> torch.Tensor:
    index, inside = [], True
    for c, n in zip(positions(displacement.float()), image.shape[2:]):
        cell = (c + 0.5).floor()
        if padding != BORDER:
            inside = inside & (cell >= 0) & (cell < n)
        index.append(cell.nan_to_num(0.0).clamp(0, n - 1).long())
    out = gather(image, index)
    if padding != BORDER:
        out = torch.where(inside[:, None], out, as_signed(torch.tensor(fill).to(image.dtype)))
    return out.view(image.dtype)
