"""The precision in which losses are computed."""

import torch


def wide(x: torch.Tensor) -> torch.Tensor:
    """Halves as float32, other floating point as it is: differences and sums of halves would be mostly rounding."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
