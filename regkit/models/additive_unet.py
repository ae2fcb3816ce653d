"""The U-Net of AC-RegNet (Mansilla et al. 2020): skips are added rather than concatenated, everything is batch-normalised.

AC-RegNet reads its field off the finest features, the fusion of multi-scale fields (He et al. 2022) one off every level. Nothing but the
last layer's place differs, so both have it from here.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from regkit.models.layers import AVERAGE_POOL, BATCH_NORM, CONVOLUTION, check_dims

_TRANSPOSE = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


class AdditiveUNet(nn.Module):
    """(B, inputs, *spatial) -> features, coarse to fine: (B, channels[-1], *spatial / 2^(n - 1)) .. (B, channels[0], *spatial).

    channels: of the n levels, fine to coarse; a level has two convolutions of 3^D on its way down and two on its way up. What goes across
    is taken before the activation, and added before that of the finer level; halving is by averages, doubling by repetition.
    dropout: share of the features that go up from a level that are set to 0 in training; those returned are whole.

    Source: Mansilla, Milone & Ferrante, Learning deformable registration of medical images with anatomical constraints, Neural Networks
    2020, and their TensorFlow code (batch normalisation without a bias before it, momentum 0.1, eps 1e-5).
    """

    def __init__(self, inputs: int, channels: Sequence[int], dims: int, dropout: float = 0.0):
        super().__init__()
        check_dims(dims)
        if len(channels) < 2 or min(channels) < 1:
            raise ValueError(f"channels must be at least two numbers above 0, one a level, but came as {tuple(channels)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, but came as {dropout}")
        self.dims, self.dropout = dims, dropout
        self.down = nn.ModuleList(
            nn.ModuleList([normalised(i, o, dims), normalised(o, o, dims)]) for i, o in zip((inputs, *channels), channels)
        )
        upwards = list(zip(channels[::-1], channels[-2::-1]))
        self.across = nn.ModuleList(nn.Sequential(Doubling(i, o, dims), BATCH_NORM[dims](o)) for i, o in upwards)
        self.up = nn.ModuleList(nn.ModuleList([normalised(o, o, dims), normalised(o, o, dims)]) for _, o in upwards)

    @property
    def multiple(self) -> int:
        """Image sizes must be multiples of this."""
        return 2 ** len(self.up)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Features of every level, coarse to fine."""
        beside: list[torch.Tensor] = []
        for first, second in self.down:
            if beside:
                x = AVERAGE_POOL[self.dims](F.elu(beside[-1]), 2)
            beside.append(second(F.elu(first(x), inplace=True)))
        found = [F.elu(beside.pop())]
        for across, (first, second) in zip(self.across, self.up):
            x = across(F.dropout(found[-1], self.dropout, self.training))
            x = F.elu(x + beside.pop(), inplace=True)
            found.append(F.elu(second(F.elu(first(x), inplace=True)), inplace=True))
        return found


class Doubling(nn.Module):
    """A convolution of 3^D voxels on a grid of twice the size, each voxel repeated.

    Computed on the coarse grid, as a transposed convolution of 4^D at stride 2: the repeated voxels that a weight meets are one, so their
    weights are added beforehand. The same sums with 4 in 9 of the multiplications (8 in 27 in 3-D); in 2-D on a CPU 2 to 3 times as fast.
    """

    def __init__(self, inputs: int, outputs: int, dims: int):
        super().__init__()
        self.convolution = CONVOLUTION[dims](inputs, outputs, 3, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.convolution.weight.transpose(0, 1)
        for axis in range(2, weight.dim()):
            first, middle, last = weight.unbind(axis)
            weight = torch.stack([last, middle + last, first + middle, first], axis)
        return _TRANSPOSE[x.dim() - 2](x, weight, stride=2, padding=1)


def normalised(inputs: int, outputs: int, dims: int) -> nn.Sequential:
    """A convolution of 3^D voxels and batch normalisation, which brings the bias."""
    return nn.Sequential(CONVOLUTION[dims](inputs, outputs, 3, 1, 1, bias=False), BATCH_NORM[dims](outputs))
