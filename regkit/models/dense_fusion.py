"""Dense registration network: a field at every scale, fused coarse to fine under learned weights (He, He & Cao 2022).

The paper gives the equations and leaves the network to figures without numbers. What is open is an option here, its default the reading
that the equations, the text and AC-RegNet (on which the authors build) allow together; each is said at its argument.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import nn

from regkit import ops
from regkit.models.additive_unet import AdditiveUNet
from regkit.models.fields import LevelFields
from regkit.models.layers import CONVOLUTION, check_pair

Gate = Literal["lower", "own"]
Fuse = Literal["chained", "direct"]
GATE_CHANNELS = 16


class FieldAttention(nn.Module):
    """Weights in 0..1 for every voxel and component of a field (B, D, *spatial): the paper's displacement field spatial attention.

    Each component goes alone through its own three convolutions of 3^D: 1 -> 16 -> 16 -> 1 channels, ReLU between, a sigmoid last. The
    paper says that components are processed independently, and no more; the layers are this code's.
    """

    def __init__(self, dims: int):
        super().__init__()
        widths = (1, GATE_CHANNELS, GATE_CHANNELS, 1)
        self.components = nn.ModuleList(
            nn.Sequential(*_between(nn.ReLU(inplace=True), [CONVOLUTION[dims](i, o, 3, 1, 1) for i, o in zip(widths, widths[1:])]))
            for _ in range(dims)
        )

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        logits = [gate(field[:, d : d + 1]) for d, gate in enumerate(self.components)]
        return torch.cat(logits, 1).float().sigmoid()


class DenseFusion(nn.Module):
    """Multi-scale fields and their fusion. 508,142 parameters in 2-D.

    Level k (1 the finest, K the coarsest) of AC-RegNet's U-Net gives a field c_k by a convolution of 3^D. From coarse to fine,

        a_K = c_K,   a_k = W_k . d_k + c_k,   d_k = 2 up(a_{k+1})        (Eq. 5)

    where up doubles the grid linearly, voxel edges on voxel edges (as averages over 2^D voxels halve it), and the 2 takes coarse voxels to
    fine ones; the paper mentions neither. W_k in 0..1 is FieldAttention's. The displacement is a_1.

    channels: of the U-Net's levels, fine to coarse (unknown; AC-RegNet's). Fields can be had at each.
    scales: how many levels, the finest ones, give fields (Fig. 9: 1 to 4).
    attention: False leaves W out: a_k = d_k + c_k.
    gate: W_k is made of "lower", the field d_k that it weighs (Fig. 4), or of "own", c_k (the text of section 3.4).
    fuse: "chained", Eq. 5; "direct" is Eq. 6 as printed, d_k = 2 up(c_{k+1}): then only the two finest scales reach the displacement.
    diffeomorphic: a_1 is a stationary velocity, integrated in `int_steps` squarings (the paper's outlook); else it is the displacement.
    dropout: of what goes up from a level of the U-Net (unknown; AC-RegNet's is 0.5). dims: 2 or 3 axes.

    The layers that give fields start from N(0, 1e-5), so that an untrained network gives the identity.
    Source: He, He & Cao, Deformable image registration with attention-guided fusion of multi-scale deformation fields, Applied Intelligence
    2022, section 3.4.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 128),
        scales: int = 4,
        attention: bool = True,
        gate: Gate = "lower",
        fuse: Fuse = "chained",
        diffeomorphic: bool = False,
        int_steps: int = 7,
        dropout: float = 0.0,
        dims: int = 2,
    ):
        super().__init__()
        for name, value, known in (("gate", gate, get_args(Gate)), ("fuse", fuse, get_args(Fuse))):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, but came as {value}")
        if not 1 <= scales <= len(channels):
            raise ValueError(f"scales must be 1 to {len(channels)}, as many as there are channels, but came as {scales}")
        if int_steps < 1:
            raise ValueError(f"int_steps must be at least 1, but came as {int_steps}")
        self.dims, self.gate, self.fuse, self.diffeomorphic, self.int_steps = dims, gate, fuse, diffeomorphic, int_steps
        self.unet = AdditiveUNet(2, channels, dims, dropout)
        self.heads = nn.ModuleList(CONVOLUTION[dims](n, dims, 3, 1, 1) for n in reversed(channels[:scales]))
        self.gates = nn.ModuleList(FieldAttention(dims) for _ in range(scales - 1)) if attention else None
        for head in self.heads:
            nn.init.normal_(head.weight, 0, 1e-5)
            nn.init.zeros_(head.bias)

    @property
    def multiple(self) -> int:
        """Image sizes must be multiples of this."""
        return self.unet.multiple

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """The displacement (B, D, *spatial) in voxels that aligns moving with fixed, both (B, 1, *spatial) with intensities in 0..1.

        Raises ValueError for images of two shapes, of more than one channel, or of a size that is not a multiple of `multiple`.
        """
        return self.found(self.fused(self.scale_fields(fixed, moving))[-1]).displacement

    def fields(self, fixed: torch.Tensor, moving: torch.Tensor) -> list[LevelFields]:
        """The fused fields a_k, coarse to fine, each in voxels of its own level; the last one's displacement is that of `forward`."""
        return [self.found(field) for field in self.fused(self.scale_fields(fixed, moving))]

    def scale_fields(self, fixed: torch.Tensor, moving: torch.Tensor) -> list[torch.Tensor]:
        """What the scales give before the fusion: c_k, coarse to fine, (B, D, *level) in voxels of their own level."""
        check_pair(fixed, moving, self.dims, self.multiple)
        features = self.unet(torch.cat([moving, fixed], 1))[-len(self.heads) :]
        with torch.autocast(fixed.device.type, enabled=False):  # a field needs more than the 8 bits of bfloat16
            return [head(x.float()) for head, x in zip(self.heads, features)]

    def fused(self, scale_fields: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """a_k of c_k, both coarse to fine."""
        found = [scale_fields[0]]
        for n, own in enumerate(scale_fields[1:]):
            below = found[-1] if self.fuse == "chained" else scale_fields[n]
            lower = ops.upsample(below, own.shape[2:], 2.0, 0.5, scale=2.0)
            if self.gates is not None:
                lower = lower * self.gates[n](lower if self.gate == "lower" else own)
            found.append(lower + own)
        return found

    def found(self, field: torch.Tensor) -> LevelFields:
        """What a fused field stands for: itself the displacement, or a velocity with the displacement that it leads to."""
        if not self.diffeomorphic:
            return LevelFields(field, None)
        return LevelFields(ops.integrate_velocity(field, steps=self.int_steps), field)


def _between(what: nn.Module, layers: list[nn.Module]) -> list[nn.Module]:
    """The layers with `what` between them."""
    return [module for layer in layers for module in (what, layer)][1:]
