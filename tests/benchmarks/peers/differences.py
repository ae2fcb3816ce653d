"""Regularisers and Jacobians by torch's finite differences."""

import torch


def jacobian_determinant_of_matrices(u: torch.Tensor) -> torch.Tensor:
    """det(I + grad u) by torch.gradient and torch.linalg.det."""
    dims = u.shape[1]
    rows = [torch.stack(torch.gradient(u[:, d], dim=list(range(1, dims + 1))), -1) for d in range(dims)]
    jacobian = torch.stack(rows, -2) + torch.eye(dims, dtype=u.dtype, device=u.device)
    return torch.linalg.det(jacobian)[:, None]


def jacobian_determinant(u: torch.Tensor) -> torch.Tensor:
    """det(I + grad u) by torch.gradient, the determinant written out."""
    dims = u.shape[1]
    g = [torch.gradient(u[:, d], dim=list(range(1, dims + 1))) for d in range(dims)]
    j = [[g[d][e] + (d == e) for e in range(dims)] for d in range(dims)]
    if dims == 2:
        return (j[0][0] * j[1][1] - j[0][1] * j[1][0])[:, None]
    minors = [j[1][(e + 1) % 3] * j[2][(e + 2) % 3] - j[1][(e + 2) % 3] * j[2][(e + 1) % 3] for e in range(3)]
    return sum(j[0][e] * minors[e] for e in range(3))[:, None]


def diffusion(u: torch.Tensor) -> torch.Tensor:
    """Mean over axes of the mean squared forward difference."""
    axes = range(2, u.dim())
    return sum(u.diff(dim=axis).square().mean() for axis in axes) / len(axes)
