"""The slope of an image along its axes."""

import torch
import torch.nn.functional as F


def gradient(image: torch.Tensor) -> torch.Tensor:
    """(1, C, D, *spatial): central differences of (1, C, *spatial) along each axis, borders repeated."""
    dims = image.dim() - 2
    padded = F.pad(image, [1, 1] * dims, mode="replicate")
    middle = [slice(1, -1)] * dims

    def shifted(axis: int, by: int) -> torch.Tensor:
        at = list(middle)
        at[axis] = slice(1 + by, padded.shape[axis + 2] - 1 + by)
        return padded[(slice(None), slice(None), *at)]

    return torch.stack([0.5 * (shifted(axis, 1) - shifted(axis, -1)) for axis in range(dims)], 2)
