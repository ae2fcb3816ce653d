"""A mean over an image's values, weighted or not, whose sum kernels make: what it is divided by, and its gradient multiplied by."""

import torch


def mean_over(
    image: torch.Tensor, weight: torch.Tensor | None, dtype: torch.dtype
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """The weight (one channel for all) as kernels that compute in `dtype` take it; the divisor (float64); the factor of gradients (dtype).

    No weight at all: a mean that is NaN, and no gradient.
    """
    if weight is None:
        divisor = torch.full((), image.numel(), dtype=torch.float64, device=image.device)
    else:
        weight = weight.to(dtype).contiguous()
        divisor = weight.sum(dtype=torch.float64) * image.shape[1]
    return weight, divisor, torch.where(divisor == 0, 0.0, 1 / divisor).to(dtype)
