"""Local NCC in plain torch."""

import torch
import torch.nn.functional as F


def separable(a: torch.Tensor, b: torch.Tensor, window: int, eps: float) -> torch.Tensor:
    """Mean squared local NCC, its box sums by one 1-D convolution an axis."""
    dims, channels = a.dim() - 2, a.shape[1]
    convolve = F.conv3d if dims == 3 else F.conv2d

    def box(x: torch.Tensor) -> torch.Tensor:
        for axis in range(dims):
            shape = [1] * dims
            shape[axis] = window
            padding = [0] * dims
            padding[axis] = window // 2
            x = convolve(x, torch.ones(channels, 1, *shape, dtype=x.dtype, device=x.device), padding=padding, groups=channels)
        return x

    n = window**dims
    sum_a, sum_b = box(a), box(b)
    cross = box(a * b) - sum_a * sum_b / n
    variance_a = (box(a * a) - sum_a * sum_a / n).clamp_min(0) + eps
    variance_b = (box(b * b) - sum_b * sum_b / n).clamp_min(0) + eps
    return (cross * cross / (variance_a * variance_b)).mean()
