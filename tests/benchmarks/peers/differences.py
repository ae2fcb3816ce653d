"""Regularisers and Jacobians by torch's finite differences."""

import torch
import torch.nn.functional as F


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


def bending(u: torch.Tensor) -> torch.Tensor:
    """Sum over pairs of axes, mixed ones twice, of the mean squared second difference."""
    axes = range(2, u.dim())
    return sum((1 if d == e else 2) * u.diff(dim=d).diff(dim=e).square().mean() for d in axes for e in axes if d <= e)


def jacobian_summary(determinant: torch.Tensor) -> torch.Tensor:
    """Of a map (B, 1, *spatial): share of folds, extremes, mean, deviation of log J where J > 0, and Learn2Reg's; (6, B)."""
    inner = determinant[(..., *[slice(2, -2)] * (determinant.dim() - 2))]
    logs = (inner + 3).clamp(1e-9, 1e9).log().flatten(1)
    columns = []
    for volume, log in zip(determinant, logs):
        positive = volume[volume > 0].clamp_min(1e-9).log()
        figures = (volume <= 0).float().mean(), volume.min(), volume.max(), volume.mean(), positive.std(correction=0), log.std(correction=0)
        columns.append(torch.stack(figures))
    return torch.stack(columns, 1)


def smooth(x: torch.Tensor, side: float) -> torch.Tensor:
    """[side, 1 - 2 side, side] along each axis by a convolution a channel, borders repeated."""
    dims, taps = x.dim() - 2, torch.tensor([side, 1 - 2 * side, side], dtype=x.dtype, device=x.device)
    channels, convolve = x.shape[1], F.conv3d if dims == 3 else F.conv2d
    for axis in range(dims):
        shape, pad = [1] * dims, [0] * (2 * dims)
        shape[axis] = 3
        pad[2 * (dims - 1 - axis)] = pad[2 * (dims - 1 - axis) + 1] = 1
        weight = taps.view(1, 1, *shape).expand(channels, 1, *shape)
        x = convolve(F.pad(x, pad, mode="replicate"), weight, groups=channels)
    return x
