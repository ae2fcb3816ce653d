"""det(I + grad u) in plain torch: differences by axis, then cofactors.

With cof[c][d] the cofactors, det = sum_c M[c][d] cof[c][d] for any d, and d det / d M[c][d] = cof[c][d]: the backward is the adjoint of the
differences.
"""

import torch

from regkit.reference.warp import working_dtype


def _neighbours(n: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per index along an axis: the two samples to subtract and 1 / their distance (0 on an axis of one voxel)."""
    index = torch.arange(n, device=device)
    low, high = (index - 1).clamp_min(0), (index + 1).clamp_max(n - 1)
    return low, high, torch.where(high > low, 1 / (high - low).clamp_min(1), 0.0)


def _columns(u: torch.Tensor) -> list[torch.Tensor]:
    """Column d of I + grad u: (B, D, *spatial), component c being delta_cd + du_c/dx_d."""
    columns = []
    for d in range(u.shape[1]):
        low, high, inverse = _neighbours(u.shape[d + 2], u.device)
        inverse = inverse.to(u.dtype).reshape(-1, *[1] * (u.dim() - d - 3))
        column = (u.index_select(d + 2, high) - u.index_select(d + 2, low)) * inverse
        column[:, d] += 1
        columns.append(column)
    return columns


def _cofactors(columns: list[torch.Tensor], d: int) -> torch.Tensor:
    """Column d of the cofactors, (B, D, *spatial)."""
    if len(columns) == 3:
        return torch.linalg.cross(columns[(d + 1) % 3], columns[(d + 2) % 3], dim=1)
    other = columns[1 - d]
    return torch.stack([other[:, 1], -other[:, 0]], 1) * (1 if d == 0 else -1)


def jacobian_determinant(u: torch.Tensor) -> torch.Tensor:
    columns = _columns(u.to(working_dtype(u)))
    return (columns[0] * _cofactors(columns, 0)).sum(1, keepdim=True).to(u.dtype)


def jacobian_determinant_backward(grad: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    x = u.to(working_dtype(u))
    columns, out = _columns(x), torch.zeros_like(x)
    for d in range(x.shape[1]):
        low, high, inverse = _neighbours(x.shape[d + 2], x.device)
        term = grad.to(x.dtype) * _cofactors(columns, d) * inverse.to(x.dtype).reshape(-1, *[1] * (x.dim() - d - 3))
        out.index_add_(d + 2, high, term)
        out.index_add_(d + 2, low, term, alpha=-1)
    return out.to(u.dtype)
