"""An image, or label maps, sampled through an affine, in plain torch. Positions are whole numbers: csrc/core/warp_affine.h says why."""

from itertools import product

import torch

from regkit.reference.warp import BORDER, ZEROS, as_signed, gather, working_dtype

STEP = 1 << 32  # steps of a position to the voxel
SHIFT_LIMIT, REACH = 2.0**29, 2.0**28  # voxels: of the matrix's last column; of each of the others over the longest axis of the result
UNKNOWN = -(1 << 62)  # the position of every voxel where the matrix has a NaN


def fixed_point(matrix: torch.Tensor, size: list[int]) -> torch.Tensor:
    """(B, D, D+1) -> the same in steps, int64."""
    m = matrix.double()
    limit = torch.full(m.shape[1:], REACH / max(1, *size), dtype=m.dtype, device=m.device)
    limit[:, -1] = SHIFT_LIMIT
    unknown = m.isnan().flatten(1).any(1)[:, None, None]
    steps = (torch.where(unknown, 0.0, m).clamp(-limit, limit) * STEP + 0.5).floor().long()
    steps[..., -1] = torch.where(unknown[..., 0], UNKNOWN, steps[..., -1])
    return steps


def positions(steps: torch.Tensor, size: list[int]) -> list[torch.Tensor]:
    """A x + t for the voxels x of the result, (B, *size) in steps, for each axis of the image."""
    index = torch.meshgrid(*(torch.arange(n, device=steps.device) for n in size), indexing="ij")
    per_item = [-1] + [1] * len(size)
    return [sum((steps[:, d, e].view(per_item) * x for e, x in enumerate(index)), steps[:, d, -1].view(per_item)) for d in range(len(size))]


def axis_cells(c: torch.Tensor, n: int, padding: int, dtype: torch.dtype):
    """Per corner (low, high): a valid index, its weight, and whether it is a cell of the image."""
    last = (n - 1) * STEP
    x = c if padding == ZEROS else c.clamp(0, last)
    low = x >> 32
    upper = (x & STEP - 1).to(dtype) / STEP
    if padding == ZEROS:
        inside = [(cell >= 0) & (cell < n) for cell in (low, low + 1)]
    else:
        inside = [((c >= -STEP // 2) & (c <= last + STEP // 2)) | (padding == BORDER)] * 2
    return [((low + i).clamp(0, n - 1), w, has) for i, (w, has) in enumerate(zip((1 - upper, upper), inside))]


def warp_affine(image: torch.Tensor, matrix: torch.Tensor, size: list[int], padding: int, fill: float) -> torch.Tensor:
    dtype, steps = working_dtype(image), fixed_point(matrix, size)
    moving, covered = image.to(dtype), False
    out = torch.zeros((*image.shape[:2], *size), dtype=dtype, device=image.device)
    axes = [axis_cells(c, n, padding, dtype) for c, n in zip(positions(steps, size), image.shape[2:])]
    for corner in product(*axes):
        index, weights, inside = zip(*corner)
        counts = torch.stack(inside).all(0)[:, None]
        covered = covered | counts
        out += torch.stack(weights).prod(0)[:, None] * torch.where(counts, gather(moving, list(index)), fill)
    unknown = (steps[:, 0, -1] == UNKNOWN).view(-1, *[1] * (image.dim() - 1))
    return torch.where(unknown, float("nan"), torch.where(covered, out, fill)).to(image.dtype)


def warp_affine_nearest(labels: torch.Tensor, matrix: torch.Tensor, size: list[int], padding: int) -> torch.Tensor:
    index, inside = [], True
    for c, n in zip(positions(fixed_point(matrix, size), size), labels.shape[2:]):
        cell = c + STEP // 2 >> 32
        inside = inside & ((cell >= 0) & (cell < n) | (padding == BORDER))
        index.append(cell.clamp(0, n - 1))
    return torch.where(inside[:, None], gather(labels, index), as_signed(labels).new_zeros(())).view(labels.dtype)
