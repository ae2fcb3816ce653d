"""Local NCC in plain torch, by how the sums over a window's voxels are made."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

Box = Callable[[torch.Tensor, int], torch.Tensor]


def ncc(a: torch.Tensor, b: torch.Tensor, window: int, eps: float, box: Box) -> torch.Tensor:
    """Mean squared local NCC."""
    n = window ** (a.dim() - 2)
    sum_a, sum_b = box(a, window), box(b, window)
    cross = box(a * b, window) - sum_a * sum_b / n
    variance_a = (box(a * a, window) - sum_a * sum_a / n).clamp_min(0) + eps
    variance_b = (box(b * b, window) - sum_b * sum_b / n).clamp_min(0) + eps
    return (cross * cross / (variance_a * variance_b)).mean()


def separable(a: torch.Tensor, b: torch.Tensor, window: int, eps: float) -> torch.Tensor:
    """Its box sums by one 1-D convolution an axis."""
    return ncc(a, b, window, eps, axis_by_axis)


def axis_by_axis(x: torch.Tensor, window: int) -> torch.Tensor:
    dims = x.dim() - 2
    for axis in range(dims):
        size = [1] * dims
        size[axis] = window
        x = convolved(x, size)
    return x


def cube_of_ones(x: torch.Tensor, window: int) -> torch.Tensor:
    return convolved(x, [window] * (x.dim() - 2))


def pooled(x: torch.Tensor, window: int) -> torch.Tensor:
    pool = F.avg_pool3d if x.dim() == 5 else F.avg_pool2d
    return pool(x, window, 1, window // 2) * window ** (x.dim() - 2)


def convolved(x: torch.Tensor, size: list[int]) -> torch.Tensor:
    """With ones, channel by channel."""
    channels = x.shape[1]
    convolve = F.conv3d if x.dim() == 5 else F.conv2d
    ones = torch.ones(channels, 1, *size, dtype=x.dtype, device=x.device)
    return convolve(x, ones, padding=[n // 2 for n in size], groups=channels)
