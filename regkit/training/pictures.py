"""A validation pair as one picture for TensorBoard: fixed, moving, moved, what differs, and how far the field moves."""

import numpy as np
import torch


def montage(fixed: torch.Tensor, moving: torch.Tensor, moved: torch.Tensor, u: torch.Tensor) -> np.ndarray:
    """(H, W) in 0..1: a row an axis (the middle slice across it; one row in 2-D), the columns as above.

    fixed, moving, moved: (1, 1, *spatial), 0..1; u: (1, D, *spatial). Differences are halved around grey; lengths are in voxels over their
    largest.
    """
    length = u[0].float().square().sum(0).sqrt()
    columns = [x[0, 0].float() for x in (fixed, moving, moved)]
    columns += [0.5 + 0.5 * (columns[2] - columns[0]), length / length.max().clamp_min(1e-6)]
    rows = [torch.cat([_padded(column, axis, fixed.shape[2:]) for column in columns], 1) for axis in _axes(fixed)]
    width = max(row.shape[1] for row in rows)
    rows = [torch.nn.functional.pad(row, (0, width - row.shape[1])) for row in rows]
    return torch.cat(rows).clamp(0, 1).cpu().numpy()


def _axes(fixed: torch.Tensor) -> tuple[int | None, ...]:
    return (None,) if fixed.dim() == 4 else (0, 1, 2)


def _padded(volume: torch.Tensor, axis: int | None, size: torch.Size) -> torch.Tensor:
    """The middle slice, the last array axis pointing up, with a black edge."""
    plane = volume if axis is None else volume.select(axis, size[axis] // 2)
    return torch.nn.functional.pad(plane.T.flip(0), (0, 1, 0, 1))
