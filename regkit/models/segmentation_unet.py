"""A small U-Net that says of each voxel which structure it belongs to: the attention of the chest X-rays' registration (He et al. 2022)."""

import torch
from torch import nn

from regkit.models.layers import BATCH_NORM, CONVOLUTION, MAX_POOL, TRANSPOSED, check_dims, check_image

LEVELS = 4  # halvings


class SegmentationUNet(nn.Module):
    """U-Net of 4 halvings: [convolution of 3, batch norm, ReLU] x 2 at each level, maximum pooling, transposed convolution of 2 back up,
    the encoder's features beside it. 1,942,306 parameters in 2-D with 2 classes and 16 channels.

    classes: channels of the answer, the background first. channels: at full size; twice as many at each coarser level. dims: 2 or 3 axes.

    Source: Ronneberger et al., U-Net, MICCAI 2015, with batch norm and padding, as is common today. He et al. (Applied Intelligence 2022)
    say that theirs has 1.9 million parameters instead of 7.7: as this one has with 16 channels instead of 32.
    """

    multiple = 2**LEVELS  # image sizes must be multiples of this
    reads = ("image",)

    def __init__(self, classes: int = 2, channels: int = 16, dims: int = 2):
        super().__init__()
        if classes < 2 or channels < 1:
            raise ValueError(f"classes must be at least 2 and channels at least 1, but came as {classes} and {channels}")
        check_dims(dims)
        self.dims = dims
        widths = [channels * 2**level for level in range(LEVELS + 1)]
        self.encode = nn.ModuleList(_twice(i, o, dims) for i, o in zip([1, *widths], widths))
        coarse_first = list(zip(widths[:0:-1], widths[-2::-1]))
        self.up = nn.ModuleList(TRANSPOSED[dims](i, o, 2, 2) for i, o in coarse_first)
        self.decode = nn.ModuleList(_twice(2 * o, o, dims) for _, o in coarse_first)
        self.head = CONVOLUTION[dims](channels, classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes, *spatial), float32, of an image (B, 1, *spatial) with intensities in 0..1.

        Raises ValueError for an image of more than one channel, or of a size that is not a multiple of 16.
        """
        check_image(image, self.dims, self.multiple)
        kept, x = [], image
        for encode in self.encode[:-1]:
            kept.append(encode(x))
            x = MAX_POOL[self.dims](kept[-1], 2)
        x = self.encode[-1](x)
        for up, decode in zip(self.up, self.decode):
            x = decode(torch.cat([kept.pop(), up(x)], 1))
        return self.head(x).float()


def _twice(inputs: int, outputs: int, dims: int) -> nn.Sequential:
    """Two convolutions; what a bias would add the batch norm takes away, and adds its own."""
    layers = []
    for i in (inputs, outputs):
        layers += [CONVOLUTION[dims](i, outputs, 3, padding=1, bias=False), BATCH_NORM[dims](outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
