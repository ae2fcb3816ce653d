"""LDGNet: VoxelMorph with its coarsest features seen at several distances, and with gates on what the decoder finds beside it (Sun & Du).

There is no code of the authors'. What the paper leaves open is taken as its words come nearest to; the docstrings say where.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from regkit.models.doubled import doubled_convolution
from regkit.models.layers import CONVOLUTION
from regkit.models.voxelmorph import SLOPE, VARIANTS, VoxelMorph

DECODED = 32  # channels of every level of VoxelMorph's decoder


class Enhancement(nn.Module):
    """Large-deformation feature enhancement: 3^D convolutions side by side, at several dilations, joined by a 1^D convolution.

    86,144 parameters for 32 channels and three dilations in 3-D. The paper says nothing of activations: a leaky ReLU follows every
    convolution, as everywhere in VoxelMorph. Nor of how weights begin: here with the identity added to torch's, so that at first the
    coarsest features pass nearly as they are; from torch's alone, which weaken them, the network learns more slowly.
    """

    def __init__(self, channels: int, dilations: Sequence[int], dims: int):
        super().__init__()
        convolution = CONVOLUTION[dims]
        self.branches = nn.ModuleList(convolution(channels, channels, 3, 1, d, dilation=d) for d in dilations)
        self.join = convolution(channels * len(dilations), channels, 1)
        with torch.no_grad():
            for branch in self.branches:
                branch.weight += nn.init.dirac_(torch.empty_like(branch.weight))
            same = nn.init.dirac_(torch.empty(channels, channels, *(1 for _ in range(dims))))
            self.join.weight += same.repeat(1, len(dilations), *(1 for _ in range(dims))) / len(dilations)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, *spatial) to the same."""
        joined = torch.cat([F.leaky_relu(branch(x), SLOPE) for branch in self.branches], 1)
        return F.leaky_relu(self.join(joined), SLOPE)


class Guidance(nn.Module):
    """Large-deformation feature guidance: a gate for each channel of the encoder's features, then one for each of their voxels.

    Channels: both maps together through a 1^D convolution, its mean and its maximum over all voxels added up, a sigmoid. Voxels: mean and
    maximum over the channels of what was gated, a 1^D convolution to one channel, a sigmoid. The paper has the second pooling "compress
    height and width", of which no map of voxels could come; over channels is how CBAM (Woo et al. 2018), which it follows, does it.
    Both gates begin nearly open (biases 1 and 2): with torch's they let a quarter through.
    """

    def __init__(self, encoded: int, decoded: int, dims: int):
        super().__init__()
        convolution = CONVOLUTION[dims]
        self.channels = convolution(decoded + encoded, encoded, 1)
        self.voxels = convolution(2, 1, 1)
        nn.init.constant_(self.channels.bias, 1.0)  # counted twice, in the mean and in the maximum
        nn.init.constant_(self.voxels.bias, 2.0)

    def forward(self, encoded: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        """(B, encoded, *2 n) and (B, decoded, *n), the latter to be doubled, to (B, encoded, *2 n)."""
        both, voxels = doubled_convolution(self.channels, decoded, encoded), list(range(2, encoded.dim()))
        gated = encoded * torch.sigmoid(both.mean(voxels, keepdim=True) + both.amax(voxels, keepdim=True))
        pooled = torch.cat([gated.mean(1, keepdim=True), gated.amax(1, keepdim=True)], 1)
        return gated * torch.sigmoid(self.voxels(pooled))


class LDGNet(VoxelMorph):
    """LDGNet's network: 392,508 parameters (vxm-2, 3-D), of which VoxelMorph has 301,411.

    guidance: gates at every skip but that of the images themselves. enhancement: dilated convolutions at the coarsest grid. Without both it
    is VoxelMorph, the paper's model A; B has guidance, C enhancement, D both.
    dilations: the paper's are 6, 12, 18. Beware: the coarsest grid is a 16th of the image, and where a dilation is not below its size all
    but the middle of the kernel sees padding. Of 160 x 192 x 224 voxels (10 x 12 x 14) that is so for 18, and but for two voxels of one
    axis for 12; the branch is then a 1^D convolution that costs what 3^D do. 1, 2, 3 see what is there.
    variant, dims: as of VoxelMorph.

    The authors train with local NCC and the smoothness of the displacement (window 9 and weight 1, which they do not tell, are
    VoxelMorph's), Adam 1e-4, one pair at a time.
    Source: Sun & Du, LDGNet; the paper's Fig. 2 and 3.
    """

    def __init__(
        self,
        guidance: bool = True,
        enhancement: bool = True,
        dilations: Sequence[int] = (6, 12, 18),
        variant: str = "vxm-2",
        dims: int = 3,
    ):
        if not dilations or min(dilations) < 1:
            raise ValueError(f"dilations must be at least 1 each, and one at least, but came as {tuple(dilations)}")
        super().__init__(variant, dims=dims)
        encoder = VARIANTS[variant].encoder
        self.enhance = Enhancement(encoder[-1], dilations, dims) if enhancement else None
        self.guide = nn.ModuleList(Guidance(channels, DECODED, dims) for channels in encoder[:-1]) if guidance else None

    @classmethod
    def from_original(cls, *_, **__) -> "LDGNet":
        """Raises NotImplementedError: its authors published no weights."""
        raise NotImplementedError("there are no published weights of LDGNet")

    def deepest(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.enhance is None else self.enhance(x)

    def beside(self, level: int, encoded: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        return encoded if self.guide is None or level == 0 else self.guide[level - 1](encoded, decoded)
