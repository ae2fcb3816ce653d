"""Overlap of a label map with a linearly warped one in plain torch, one corner at a time. Formulas: csrc/core/soft_dice.h."""

import torch

from regkit.reference.warp import corners, flat_index, positions, working_dtype


def codes(labels: torch.Tensor, values: list[int]) -> torch.Tensor:
    """Position of each voxel's label in `values`, or len(values) where it isn't there; int64."""
    wide = labels.to(torch.int64)
    out = torch.full_like(wide, len(values))
    for code, value in enumerate(values):
        out[wide == value] = code
    return out


def _corner_codes(moving: torch.Tensor, displacement: torch.Tensor, padding: int, dtype: torch.dtype):
    """For each of the 2^D corners: its codes (B, voxels), and its axes' weights and slopes (B, *spatial) each."""
    for corner in corners(moving, displacement, padding, dtype):
        index, weights, slopes = zip(*corner)
        flat = flat_index(list(index), moving.shape[2:], 1)[:, 0]
        yield moving.flatten(1).gather(1, flat), weights, slopes


def soft_dice(fixed: torch.Tensor, moving: torch.Tensor, displacement: torch.Tensor, labels: list[int], padding: int) -> torch.Tensor:
    dtype = working_dtype(displacement)
    f, m = codes(fixed, labels).flatten(1), codes(moving, labels)
    both, warped, still = torch.zeros((3, fixed.shape[0], len(labels) + 1), dtype=torch.float64, device=fixed.device)
    still.scatter_add_(1, f, torch.ones_like(f, dtype=torch.float64))
    for code, weights, _ in _corner_codes(m, displacement, padding, dtype):
        weight = torch.stack(weights).prod(0).flatten(1).nan_to_num(0.0).double()
        warped.scatter_add_(1, code, weight)
        both.scatter_add_(1, code, torch.where(code == f, weight, 0.0))
    sums = torch.stack([both, warped, still], 1)[..., : len(labels)]
    lost = torch.stack([c.isnan().flatten(1).any(1) for c in positions(displacement)]).any(0)
    return torch.where(lost[:, None, None], float("nan"), sums)


def soft_dice_backward(
    grad: torch.Tensor, fixed: torch.Tensor, moving: torch.Tensor, displacement: torch.Tensor, labels: list[int], padding: int
) -> torch.Tensor:
    dtype = working_dtype(displacement)
    f, m = codes(fixed, labels).flatten(1), codes(moving, labels)
    none = grad.new_zeros((grad.shape[0], 1))
    by_both, by_warped = (torch.cat([grad[:, i], none], 1).to(dtype) for i in (0, 1))
    out = torch.zeros_like(displacement, dtype=dtype)
    for code, weights, slopes in _corner_codes(m, displacement, padding, dtype):
        along = by_warped.gather(1, code) + torch.where(code == f, by_both.gather(1, code), 0.0)
        along = along.reshape(out[:, 0].shape)
        for d in range(len(weights)):
            factors = [slopes[e] if e == d else weights[e] for e in range(len(weights))]
            out[:, d] += torch.stack(factors).prod(0) * along
    # A NaN in the tables (of a NaN displacement, or from upstream) makes the gradient of its whole batch item NaN.
    poison = (0 * grad[:, :2]).sum((1, 2)).to(dtype)
    return (out + poison.reshape(-1, *[1] * (out.dim() - 1))).to(displacement.dtype)
