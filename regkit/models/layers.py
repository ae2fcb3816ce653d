"""What the networks share: layers by number of axes, and the halving of images."""

import torch
import torch.nn.functional as F
from torch import nn

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}


def halved(images: torch.Tensor) -> torch.Tensor:
    """Means over 3^D voxels at every second voxel; (n + 1) // 2 voxels along an axis of n. What lies outside takes no part."""
    return _POOL[images.dim() - 2](images, 3, 2, 1, count_include_pad=False)
