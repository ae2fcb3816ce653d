"""VoxelMorph: one U-Net from both images to the field, the baseline of learned registration (Balakrishnan et al. 2019; Dalca et al. 2019).

The authors published two U-Nets under this name. The one of the papers, which most comparisons run, halves by convolutions of stride 2;
their torch code since 2021 halves by pooling after the convolution, so that the decoder sees features of the finer grid. Both are here.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from regkit import ops
from regkit.models.doubled import channels_last, doubled_convolution
from regkit.models.fields import LevelFields
from regkit.models.layers import CONVOLUTION, MAX_POOL, check_dims, check_pair, load_strictly
from regkit.models.voxelmorph_original import from_original_keys

SLOPE = 0.2  # of every leaky ReLU
DECODER = (32, 32, 32, 32)
DOWNSIZES = (1, 2, 4, 8)


class Channels(NamedTuple):
    """Of the convolutions: encoder, and at full size after the decoder."""

    encoder: tuple[int, ...]
    full: tuple[int, ...]


VARIANTS = {"vxm-1": Channels((8, 32, 32, 32), (32, 8, 8)), "vxm-2": Channels((16, 32, 32, 32), (32, 16, 16))}


class VoxelMorph(nn.Module):
    """VoxelMorph's network. 301,411 parameters (vxm-2) or 274,387 (vxm-1) in 3-D.

    variant: vxm-2, or vxm-1 with half the channels at full size; as Chen et al. (TransMorph, MedIA 2022) have them.
    diffeomorphic: the field is a stationary velocity on a grid `int_downsize` times as coarse, integrated in `int_steps` squarings; else it
    is the displacement.
    dims: 2 or 3 axes. pooled: halve by maximum pooling, as in the authors' torch code since 2021.

    The authors train with local NCC (window 9) and weight 1 of the smoothness of the displacement; the velocity's counts `int_downsize`
    times.
    Source: Balakrishnan et al., VoxelMorph: a learning framework for deformable medical image registration, IEEE TMI 2019; Dalca et al.,
    Unsupervised learning of probabilistic diffeomorphic registration for images and surfaces, MedIA 2019;
    https://github.com/voxelmorph/voxelmorph (Apache 2.0).
    """

    multiple = 2 ** len(DECODER)  # image sizes must be multiples of this

    def __init__(
        self,
        variant: str = "vxm-2",
        diffeomorphic: bool = False,
        dims: int = 3,
        int_steps: int = 7,
        int_downsize: int = 2,
        pooled: bool = False,
    ):
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, but came as {variant}")
        if int_steps < 1 or int_downsize not in DOWNSIZES:
            raise ValueError(
                f"int_steps must be at least 1 and int_downsize one of {DOWNSIZES}, but came as {int_steps} and {int_downsize}"
            )
        check_dims(dims)
        self.dims, self.diffeomorphic, self.pooled = dims, diffeomorphic, pooled
        self.int_steps, self.int_downsize = int_steps, int_downsize
        convolution, (encoder, full) = CONVOLUTION[dims], VARIANTS[variant]
        before = (2, *encoder[:-1])
        beside = encoder if pooled else before  # what the decoder finds beside it, fine to coarse
        stride = 1 if pooled else 2
        self.encode = nn.ModuleList(convolution(i, o, 3, stride, 1) for i, o in zip(before, encoder))
        joined = [encoder[-1], *(d + b for d, b in zip(DECODER, reversed(beside)))]
        self.decode = nn.ModuleList(convolution(i, o, 3, 1, 1) for i, o in zip(joined, DECODER))
        self.full = nn.ModuleList(convolution(i, o, 3, 1, 1) for i, o in zip((joined[-1], *full), full))
        self.flow = convolution(full[-1], dims, 3, 1, 1)
        nn.init.normal_(self.flow.weight, 0, 1e-5)
        nn.init.zeros_(self.flow.bias)

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """The displacement (B, D, *spatial) in voxels that aligns moving with fixed, both (B, 1, *spatial) with intensities in 0..1.

        Raises ValueError for images of two shapes, of more than one channel, or of a size that is not a multiple of 16.
        """
        return self.fields(fixed, moving).displacement

    def fields(self, fixed: torch.Tensor, moving: torch.Tensor) -> LevelFields:
        """The displacement, and the velocity on its coarser grid where the network is diffeomorphic."""
        check_pair(fixed, moving, self.dims, self.multiple)
        # In float32 under autocast too: a field needs more than 8 bits.
        field = self.flow(self._features(channels_last(torch.cat([moving, fixed], 1)))).float().contiguous()
        if not self.diffeomorphic:
            return LevelFields(field, None)
        size = fixed.shape[2:]
        velocity = resized(field, [n // self.int_downsize for n in size], 1 / self.int_downsize)
        return LevelFields(resized(integrated(velocity, self.int_steps), size, self.int_downsize), velocity)

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        """The U-Net before its last convolution."""
        beside = [] if self.pooled else [x]
        for convolution in self.encode:
            x = F.leaky_relu(convolution(x), SLOPE)
            beside.append(x)
            if self.pooled:
                x = MAX_POOL[self.dims](x, 2)
        if not self.pooled:
            beside.pop()
        x = F.leaky_relu(self.decode[0](self.deepest(x)), SLOPE)
        for convolution in (*self.decode[1:], self.full[0]):
            level = len(beside) - 1
            x = F.leaky_relu(doubled_convolution(convolution, x, self.beside(level, beside.pop(), x)), SLOPE)
        for convolution in self.full[1:]:
            x = F.leaky_relu(convolution(x), SLOPE)
        return x

    def deepest(self, x: torch.Tensor) -> torch.Tensor:
        """The features of the coarsest grid as the decoder is given them: a place for networks that are built on this one."""
        return x

    def beside(self, level: int, encoded: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        """The encoder's features of a level (0: the finest) as they are joined to the decoder's, whose grid is half as fine: another such
        place.
        """
        return encoded

    @classmethod
    def from_original(
        cls, state_dict: Mapping[str, torch.Tensor], *, diffeomorphic: bool = False, int_steps: int = 7, int_downsize: int = 2
    ) -> "VoxelMorph":
        """The network of a checkpoint of the authors' torch VxmDense: its `model_state`.

        diffeomorphic, int_steps and int_downsize as in the checkpoint's `config` (int_steps 0 there is not diffeomorphic).
        Raises ValueError where the keys or shapes are not those of a vxm-1 or vxm-2.
        """
        converted, pooled = from_original_keys(state_dict)
        if "encode.0.weight" not in converted or "flow.weight" not in converted:
            raise ValueError("the state_dict lacks the encoder's first convolution, or flow; give a VxmDense's model_state")
        first = converted["encode.0.weight"].shape[0]
        variant = next((name for name, channels in VARIANTS.items() if channels.encoder[0] == first), None)
        if variant is None:
            raise ValueError(f"the weights are of neither vxm-1 nor vxm-2: the first convolution has {first} channels")
        dims = converted["flow.weight"].dim() - 2
        network = cls(variant, diffeomorphic, dims, int_steps, int_downsize, pooled)
        load_strictly(network, converted)
        return network


def resized(field: torch.Tensor, size: list[int] | torch.Size, scale: float) -> torch.Tensor:
    """A field on a grid of another size, corners on corners, its values multiplied by `scale`.

    With n and N voxels, corners on corners is a factor of (N - 1) / (n - 1), so `scale` = N / n is not quite that of a displacement; the
    authors have it so.
    """
    if tuple(field.shape[2:]) == tuple(size):
        return field
    return ops.upsample(field, list(size), [(n - 1) / (c - 1) for n, c in zip(size, field.shape[2:])], scale=scale)


def integrated(velocity: torch.Tensor, steps: int) -> torch.Tensor:
    """The displacement of a velocity that is 0 outside its grid.

    Scaling and squaring continues a field with its edge; so the field is given an edge of zeros, which integration leaves as they are.
    """
    dims = velocity.dim() - 2
    inside = (..., *[slice(1, -1)] * dims)
    return ops.integrate_velocity(F.pad(velocity, (1, 1) * dims), steps=steps)[inside].contiguous()
