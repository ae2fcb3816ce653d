"""What the networks share: layers by number of axes, the halving of images, what images they take, and strict loading."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL = {2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}


def halved(images: torch.Tensor) -> torch.Tensor:
    """Means over 3^D voxels at every second voxel; (n + 1) // 2 voxels along an axis of n. What lies outside takes no part."""
    return AVERAGE_POOL[images.dim() - 2](images, 3, 2, 1, count_include_pad=False)


def check_dims(dims: int) -> None:
    """Raises ValueError unless there are layers for so many axes."""
    if dims not in CONVOLUTION:
        raise ValueError(f"dims must be 2 or 3, but came as {dims}")


def check_pair(fixed: torch.Tensor, moving: torch.Tensor, dims: int, multiple: int) -> None:
    """Raises ValueError unless both are (B, 1, *spatial) with `dims` axes, of one size, a multiple of `multiple`; and where torch could not
    train on them.
    """
    if fixed.shape != moving.shape or fixed.dim() != dims + 2 or fixed.shape[1] != 1:
        raise ValueError(
            f"fixed and moving must both be (B, 1, {dims} axes) and of one size, but came as {tuple(fixed.shape)} and {tuple(moving.shape)}"
        )
    _check_size(fixed, multiple)


def check_image(image: torch.Tensor, dims: int, multiple: int) -> None:
    """Raises ValueError unless it is (B, 1, *spatial) with `dims` axes, all multiples of `multiple`; and where torch could not train
    on it.
    """
    if image.dim() != dims + 2 or image.shape[1] != 1:
        raise ValueError(f"image must be (B, 1, {dims} axes), but came as {tuple(image.shape)}")
    _check_size(image, multiple)


def _check_size(image: torch.Tensor, multiple: int) -> None:
    size = tuple(image.shape[2:])
    if any(n % multiple or n == 0 for n in size):
        raise ValueError(f"image sizes must be multiples of {multiple}, but came as {size}; pad the images")
    # oneDNN's weight gradients of 3-D convolutions in bfloat16 are wrong where the first axis has 2 voxels (torch 2.13, AVX-512): at the
    # coarsest grids of a network.
    halves = image.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
    if halves and len(size) == 3 and size[0] <= 2 * multiple:
        raise ValueError(
            f"training in half precision on a CPU needs more than {2 * multiple} voxels along the first axis, where torch's gradients are "
            f"right, but the images came as {size}; pad them, or train in float32"
        )


def load_strictly(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Loads all weights of a network. Raises ValueError, in one line, where a key is missing, too many, or of another shape."""
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit: {' '.join(str(error).split())}") from None
