"""Conditional LapIRN: one network for every smoothness, chosen when registering (Mok & Chung, MICCAI 2021).

LapIRN whose residual blocks normalise their features and then scale and shift them as a code in 0..1 says; in training the code is drawn
anew at every step, and the weight of the smoothness is a multiple of it. Layer by layer as the authors published it.
"""

import torch
import torch.nn.functional as F
from torch import nn

from regkit.models.fields import LevelFields
from regkit.models.lapirn import SLOPE, LapIRN
from regkit.models.layers import CONVOLUTION, check_pair

LATENT = 64  # numbers that a block makes of the code
DEPTH = 4  # layers that make them


class ConditionalBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), where norm(x) = (1 + g) n(x) + b: n gives every channel of a scan mean 0 and variance 1, and
    g and b come from the code."""

    def __init__(self, channels: int, dims: int):
        super().__init__()
        layers: list[nn.Module] = []
        for n in range(DEPTH):
            layers += [nn.Linear(LATENT if n else 1, LATENT), nn.LeakyReLU(SLOPE)]
        self.mapping = nn.Sequential(*layers)
        self.styles = nn.ModuleList(nn.Linear(LATENT, 2 * channels) for _ in range(2))
        self.convolutions = nn.ModuleList(CONVOLUTION[dims](channels, channels, 3, 1, 1, bias=False) for _ in range(2))
        for style in self.styles:
            nn.init.zeros_(style.bias)

    def forward(self, x: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        latent, y = self.mapping(code), x
        for style, convolution in zip(self.styles, self.convolutions):
            gain, shift = style(latent)[(...,) + (None,) * (x.dim() - 2)].chunk(2, 1)
            y = convolution(F.leaky_relu((1 + gain) * F.instance_norm(y) + shift, SLOPE))
        return y + x


class ConditionalLapIRN(LapIRN):
    """Laplacian pyramid registration network with the smoothness as an input. Arguments as of LapIRN.

    `smoothness`, 0 (no smoothing) to 1 (smoothest), is one number, or (B,) one a pair. In the authors' training it is uniform in 0..1 and
    the smoothness of the displacement has weight 40 times it (10 in their unit, half a voxel; see `regkit.losses.smoothness_loss`).

    Source: Mok & Chung, Conditional deformable image registration with convolutional neural network, MICCAI 2021;
    https://github.com/cwmok/Conditional_LapIRN (MIT).
    """

    block = ConditionalBlock

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor, smoothness: float | torch.Tensor = 0.5) -> torch.Tensor:
        """The displacement (B, D, *spatial) in voxels that aligns moving with fixed, both (B, 1, *spatial) with intensities in 0..1."""
        return self.pyramid(fixed, moving, smoothness=smoothness)[-1].displacement

    def pyramid(
        self, fixed: torch.Tensor, moving: torch.Tensor, depth: int | None = None, smoothness: float | torch.Tensor = 0.5
    ) -> list[LevelFields]:
        """As LapIRN's. Raises ValueError for a smoothness outside 0..1 or of another shape too, and for images of one block of voxels,
        which have no variance at the coarsest level."""
        check_pair(fixed, moving, self.dims, self.multiple)
        if all(n == self.multiple for n in fixed.shape[2:]):
            raise ValueError(f"an axis must have more than {self.multiple} voxels, but the images came as {tuple(fixed.shape[2:])}")
        code = torch.as_tensor(smoothness, dtype=torch.float32, device=fixed.device)
        if code.dim() > 1 or (code.dim() == 1 and len(code) != len(fixed)):
            raise ValueError(f"smoothness must be one number or one a pair ({len(fixed)}), but came as {tuple(code.shape)}")
        if not isinstance(smoothness, torch.Tensor) and not 0 <= smoothness <= 1:
            raise ValueError(f"smoothness must be between 0 and 1, but came as {smoothness}")
        return self._pyramid(fixed, moving, depth, code.expand(len(fixed))[:, None])
