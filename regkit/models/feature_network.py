"""The feature network of the displacement embedding: a small U-Net that has learned to predict MIND-SSC (Hansen & Heinrich, MIDL 2020)."""

import torch
import torch.nn.functional as F
from torch import nn

from regkit.models.doubled import channels_last, doubled_convolution
from regkit.models.layers import AVERAGE_POOL, CONVOLUTION, check_dims

SLOPE = 0.2  # of every leaky ReLU
STRIDE = 2  # of the features: three halvings, two doublings
BORDER = 8  # voxels by which the image is continued: at its edge features are then as within
FLAT = 1e-3  # contrast (of intensities in 0..1) below which 3^D voxels count as flat


class FeatureNetwork(nn.Module):
    """12 features (4 in 2-D) at every second voxel, from an image: 318,860 parameters in 3-D with 16 channels.

    Three encoder blocks, each a convolution and one of stride 2, with c, 2 c and 4 c channels; two decoder blocks, each a convolution of
    the features on the doubled grid beside the encoder's; a 1^D head. All of 3^D voxels, leaky ReLUs between; after the first convolution
    a square instead, for MIND is made of squared differences. The image comes less its mean over 3^D voxels, over its deviation there, so
    that contrast plays no part, as in MIND. No normalisation else: a part of a scan has the features that it has in the whole. The paper
    gives blocks and stride; the rest is ours.

    channels: c. dims: 2 or 3 axes.
    """

    multiple = 2**3
    reads = ("image",)
    stride = STRIDE

    def __init__(self, channels: int = 16, dims: int = 3):
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1, but came as {channels}")
        check_dims(dims)
        self.dims = dims
        convolution, widths = CONVOLUTION[dims], (channels, 2 * channels, 4 * channels)
        self.encode = nn.ModuleList(convolution(i, o, 3, 1, 1) for i, o in zip((1, *widths), widths))
        self.down = nn.ModuleList(convolution(n, n, 3, 2, 1) for n in widths)
        self.decode = nn.ModuleList(convolution(n + n // 2, n // 2, 3, 1, 1) for n in widths[:0:-1])
        self.head = convolution(channels, 12 if dims == 3 else 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 1, *n), intensities in 0..1, to (B, 12 or 4, *(n // 2)), float32.

        Raises ValueError for an image of more than one channel, or of another number of axes.
        """
        if image.dim() != self.dims + 2 or image.shape[1] != 1:
            raise ValueError(f"image must be (B, 1, {self.dims} axes), but came as {tuple(image.shape)}")
        size = image.shape[2:]
        after = [BORDER + -n % self.multiple for n in reversed(size)]
        x = channels_last(standardised(F.pad(image, [n for end in after for n in (BORDER, end)], mode="replicate")))
        beside = []
        for level, (encode, down) in enumerate(zip(self.encode, self.down)):
            x = encode(x)
            x = F.leaky_relu(down(0.5 * x.square() if level == 0 else F.leaky_relu(x, SLOPE)), SLOPE)
            beside.append(x)
        beside.pop()
        for decode in self.decode:
            x = F.leaky_relu(doubled_convolution(decode, x, beside.pop()), SLOPE)
        first = BORDER // STRIDE
        inside = (..., *(slice(first, first + n // STRIDE) for n in size))
        return self.head(x)[inside].float()


def standardised(image: torch.Tensor) -> torch.Tensor:
    """Each voxel of (B, 1, *n) less the mean over the 3^D voxels around it, over the root of that difference's mean square there."""
    dims = image.dim() - 2

    def mean(x: torch.Tensor) -> torch.Tensor:
        return AVERAGE_POOL[dims](F.pad(x, (1, 1) * dims, mode="replicate"), 3, 1)

    x = image.float()
    x = x - mean(x)
    return x * torch.rsqrt(mean(x.square()) + FLAT**2)
