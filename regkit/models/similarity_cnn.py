"""Similarity-steered CNN regression: the displacement in the middle of a patch, from the patch and maps of likeness (Cao et al. 2017)."""

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS = (64, 64, 128, 128, 256, 256, 512, 512)
POOL_AFTER = {31: 2, 27: 4, 23: 6, 19: 8}  # convolutions, by the size of the patch
HIDDEN = 512
CONTRAST = 4.0
FIRST = 0.1  # factor of the last layer's first weights, lest the tanh is saturated from the start


class SimilarityCNN(nn.Module):
    """The network of Cao et al.: 14,584,323 parameters for two images and four maps.

    Eight 3^3 convolutions without padding, each with a ReLU, one maximum pooling, three fully connected layers; the last one's tanh times
    `longest` is the displacement. The paper has no size for its patches. With one pooling of 2^3 the features come down to one voxel for 31
    (pooling after two convolutions), 27 (four), 23 (six) or 19 (eight) voxels, whatever the number of parameters. A patch must hold the
    longest displacement beside what the maps compare: 7 and 4 voxels in 23 or more, half as long ones in 19.

    The weights are drawn after He et al. 2015: by Glorot's rule every ReLU halves the variance, and of eleven layers nothing comes out.

    maps: likeness of the subject's patch to the middle of the template's, by size of that middle (regkit.ops.similarity_maps).
    longest: voxels along an axis that the network can tell; the paper's 7 mm.
    width: of the convolutions, over the paper's. A patch of 27 takes 14 GFLOP forward with all channels, 0.26 with an eighth of them.
    patch: voxels along an axis: 19, 23, 27 or 31.

    Cosines of grey values lie near 1, where bfloat16 has steps of 0.004, and hardly differ from place to place: the maps enter as
    `CONTRAST` times what they lack of 1, which is the same network with other first weights.

    The authors train by the squared error, SGD with rate 0.01, halved every 70,000 steps.
    Source: Cao, Yang, Zhang, Nie, Kim, Wang & Shen, Deformable image registration based on similarity-steered CNN regression, MICCAI 2017.
    Raises ValueError for numbers out of range.
    """

    def __init__(self, maps: int = 4, longest: float = 7.0, width: float = 1.0, patch: int = 27):
        super().__init__()
        if maps < 0 or longest <= 0 or width <= 0:
            raise ValueError(f"maps must be at least 0, longest and width above 0, but came as {maps}, {longest} and {width}")
        if patch not in POOL_AFTER:
            raise ValueError(f"patch must be one of {', '.join(map(str, sorted(POOL_AFTER)))}, but came as {patch}")
        self.maps, self.longest, self.patch = maps, longest, patch
        channels = [max(1, round(width * count)) for count in CHANNELS]
        self.convolve = nn.ModuleList(nn.Conv3d(i, o, 3) for i, o in zip((2 + maps, *channels[:-1]), channels))
        self.connect = nn.ModuleList(nn.Linear(i, o) for i, o in ((channels[-1], HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 3)))
        for layer in (*self.convolve, *self.connect):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.connect[-1].weight.mul_(FIRST)

    def forward(self, template: torch.Tensor, subject: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """The displacement (N, 3) in voxels that leads from the middle of the template's patch to its like in the subject's.

        template, subject: (N, 1, P, P, P), intensities in 0..1, around one place; P is `patch`. maps: (N, maps, P, P, P).
        Raises ValueError for other shapes.
        """
        size = [self.patch] * 3
        for name, x, channels in (("template", template, 1), ("subject", subject, 1), ("maps", maps, self.maps)):
            if x.shape[1:] != (channels, *size) or len(x) != len(template):
                raise ValueError(f"{name} must be {(len(template), channels, *size)}, but came as {tuple(x.shape)}")
        x = torch.cat([template, subject, CONTRAST * (maps - 1)], 1).contiguous(memory_format=torch.channels_last_3d)
        for number, layer in enumerate(self.convolve, start=1):
            x = F.relu(layer(x))
            if number == POOL_AFTER[self.patch]:
                x = F.max_pool3d(x, 2)
        x = x.flatten(1)
        for layer in self.connect[:-1]:
            x = F.relu(layer(x))
        # In float32 under autocast too: a displacement needs more than 8 bits.
        return self.longest * torch.tanh(self.connect[-1](x).float())
