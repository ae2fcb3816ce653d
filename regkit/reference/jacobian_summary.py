"""Figures of det(I + grad u) in plain torch, from the map. Voxels that do not count are masked, not taken out, so that nothing waits for a
GPU."""

import torch

from regkit.reference.jacobian import jacobian_determinant
from regkit.reference.warp import working_dtype

FIGURES = 6  # folds, min, max, mean, sdlogj, sdlogj_learn2reg
_OUTER = 2  # voxels on each side that Learn2Reg leaves out


def _sum(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return torch.where(chosen, values, 0).sum(1, dtype=torch.float64)


def _deviation(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    count = _sum(torch.ones_like(values), chosen)
    mean = _sum(values, chosen) / count
    return (_sum((values - mean[:, None]).square(), chosen) / count).sqrt()


def jacobian_summary(u: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if u.numel() == 0:
        return u.new_full((u.shape[0], FIGURES), float("nan"), dtype=torch.float64)
    determinant = jacobian_determinant(u.to(working_dtype(u)))
    chosen = torch.ones_like(determinant, dtype=torch.bool) if mask is None else mask != 0
    inner = torch.zeros_like(chosen)
    inner[(..., *[slice(_OUTER, -_OUTER)] * (u.dim() - 2))] = True
    values, chosen, inner = (x.flatten(1) for x in (determinant, chosen, chosen & inner))
    count = _sum(torch.ones_like(values), chosen)
    infinity = torch.where(count > 0, float("inf"), float("nan"))[:, None]
    figures = (
        _sum(torch.ones_like(values), chosen & (values <= 0)) / count,
        torch.where(chosen, values, infinity).amin(1),
        torch.where(chosen, values, -infinity).amax(1),
        _sum(values, chosen) / count,
        _deviation(values.clamp_min(1e-9).double().log(), chosen & (values > 0)),
        _deviation((values + 3).clamp(1e-9, 1e9).double().log(), inner),
    )
    return torch.stack([figure.double() for figure in figures], 1)
