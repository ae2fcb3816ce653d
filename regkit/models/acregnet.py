"""AC-RegNet: registration of chest X-rays under anatomical constraints (Mansilla et al. 2020); the baseline of He et al. 2022.

The network is a U-Net from both images to the displacement. What made it known is in the training: the code that an auto-encoder of label
maps gives of the warped labels shall be that of the fixed ones (label_autoencoder.py).
"""

from collections.abc import Sequence

import torch
from torch import nn

from regkit.models.additive_unet import AdditiveUNet, normalised
from regkit.models.layers import CONVOLUTION, check_pair


class ACRegNet(nn.Module):
    """AC-RegNet's registration network, layer by layer as the authors' TensorFlow code has it. 488,356 parameters in 2-D.

    The displacement is batch-normalised as all other layers are: in training an untrained network gives fields of variance 1 voxel, and
    a pair's field depends on the batch; in evaluation it does not. Convolutions start from a normal distribution of sigma 0.01, cut off
    at 2 sigma. The authors see images of 64 x 64 and take the field to larger ones.

    channels: of the levels, fine to coarse. dropout: of what goes up from a level. dims: 2 or 3 axes.

    The authors train with -NCC + cross-entropy of the warped labels + 0.1 x squared distance of the codes + 5e-5 x total variation (a sum
    over voxels and components), Adam 1e-3, batches of 32 pairs, 18,000 steps.
    Source: Mansilla, Milone & Ferrante, Learning deformable registration of medical images with anatomical constraints, Neural Networks
    2020; https://github.com/lucasmansilla/ACRN_Chest_X-ray_IA (MIT), the TensorFlow code of 2020.
    """

    def __init__(self, dims: int = 2, channels: Sequence[int] = (16, 32, 64, 128), dropout: float = 0.5):
        super().__init__()
        self.dims = dims
        self.unet = AdditiveUNet(2, channels, dims, dropout)
        self.flow = normalised(channels[0], dims, dims)
        for module in self.modules():
            if isinstance(module, CONVOLUTION[dims]):
                nn.init.trunc_normal_(module.weight, 0, 0.01, -0.02, 0.02)

    @property
    def multiple(self) -> int:
        """Image sizes must be multiples of this."""
        return self.unet.multiple

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """The displacement (B, D, *spatial) in voxels that aligns moving with fixed, both (B, 1, *spatial) with intensities in 0..1.

        Raises ValueError for images of two shapes, of more than one channel, or of a size that is not a multiple of `multiple`.
        """
        check_pair(fixed, moving, self.dims, self.multiple)
        features = self.unet(torch.cat([moving, fixed], 1))[-1]
        with torch.autocast(features.device.type, enabled=False):  # a field needs more than the 8 bits of bfloat16
            return self.flow(features.float())
