"""LapIRN: a Laplacian pyramid of registration networks, coarse to fine (Mok & Chung, MICCAI 2020; winner of Learn2Reg 2020).

Every level has the same small network. It sees both images at its resolution, the moving one warped by the level before, and adds to that
level's field; a feature map (the embedding) goes on to the next level beside the field. Layer by layer as the authors published it, so that
their checkpoints give their output: no bias, no normalisation, pyramid by average pooling.

Inside, fields are in normalised units, 2 / (n - 1) of a voxel (so that a field keeps its values when it is upsampled), in array axis order;
at the module's border they are in voxels.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from regkit import ops
from regkit.models.fields import LevelFields
from regkit.models.lapirn_original import from_original_keys
from regkit.models.layers import CONVOLUTION, TRANSPOSED, check_dims, check_pair, halved, load_strictly

SLOPE = 0.2  # of every leaky ReLU
BLOCKS = 5
SQUARINGS = 7


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x))))."""

    def __init__(self, channels: int, dims: int):
        super().__init__()
        self.convolutions = nn.ModuleList(CONVOLUTION[dims](channels, channels, 3, 1, 1, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for convolution in self.convolutions:
            y = convolution(F.leaky_relu(y, SLOPE))
        return y + x


class LapIRN(nn.Module):
    """Laplacian pyramid registration network.

    levels: resolutions, each half of the next. start_channels: a quarter of the feature channels (7: 923,748 parameters in 3-D).
    diffeomorphic: fields are stationary velocities, integrated by scaling and squaring; else displacements.
    range_flow: the largest step of one level, in units of half the image. dims: 2 or 3 axes.
    lite: half the feature channels at a level's own resolution, where most of the time goes; as of the authors' lite networks.

    Source: Mok & Chung, Large deformation diffeomorphic image registration with Laplacian pyramid networks, MICCAI 2020, and Large
    deformation image registration with anatomy-aware Laplacian pyramid networks, L2R 2020; https://github.com/cwmok/LapIRN (MIT).
    """

    block: type[nn.Module] = ResidualBlock  # what a level has between encoder and decoder, five times

    def __init__(
        self,
        levels: int = 3,
        start_channels: int = 7,
        diffeomorphic: bool = False,
        range_flow: float = 0.4,
        dims: int = 3,
        lite: bool = False,
    ):
        super().__init__()
        if levels < 1 or start_channels < 1:
            raise ValueError(f"levels and start_channels must be at least 1, but came as {levels} and {start_channels}")
        check_dims(dims)
        self.dims, self.diffeomorphic, self.range_flow = dims, diffeomorphic, range_flow
        channels = 4 * start_channels
        fine = channels // 2 if lite else channels
        self.levels = nn.ModuleList(
            # The last level's embedding goes nowhere but to its own head.
            Level(2 if n == 0 else 2 + dims, channels, fine, fine if n == levels - 1 else channels, dims, self.block)
            for n in range(levels)
        )

    @property
    def multiple(self) -> int:
        """Image sizes must be multiples of this."""
        return 2 ** len(self.levels)

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """The displacement (B, D, *spatial) in voxels that aligns moving with fixed, both (B, 1, *spatial) with intensities in 0..1."""
        return self.pyramid(fixed, moving)[-1].displacement

    def pyramid(self, fixed: torch.Tensor, moving: torch.Tensor, depth: int | None = None) -> list[LevelFields]:
        """The fields of the levels, coarse to fine; the first `depth` levels only if it is given.

        Raises ValueError for images of two shapes, of more than one channel, or of a size that is not a multiple of `self.multiple`.
        """
        return self._pyramid(fixed, moving, depth)

    def _pyramid(self, fixed: torch.Tensor, moving: torch.Tensor, depth: int | None, *condition: torch.Tensor) -> list[LevelFields]:
        """`condition` goes to every block."""
        check_pair(fixed, moving, self.dims, self.multiple)
        images = [torch.cat([moving, fixed], 1)]
        for _ in self.levels[1:]:
            images.insert(0, halved(images[0]))
        found: list[LevelFields] = []
        field = embedding = None
        for network, pair in zip(self.levels[:depth], images):
            scale = units(pair)
            if field is not None:
                field, warping = doubled(field), doubled(found[-1].displacement / units(found[-1].displacement))
                pair = torch.cat([ops.warp(pair[:, :1].contiguous(), warping * scale, padding="border"), pair[:, 1:], field], 1)
            step, embedding = network(pair, embedding, *condition)
            step = self.range_flow * step
            field = step if field is None else step + field
            voxels = field * scale
            displacement = ops.integrate_velocity(voxels, steps=SQUARINGS) if self.diffeomorphic else voxels
            found.append(LevelFields(displacement, voxels if self.diffeomorphic else None))
        return found

    @classmethod
    def from_original(cls, state_dict: Mapping[str, torch.Tensor], *, diffeomorphic: bool = False, range_flow: float = 0.4) -> "LapIRN":
        """The network of one of the authors' checkpoints (LapIRN_disp_fea7.pth and the like, as torch.load gives them).

        diffeomorphic: which kind the checkpoint is; it doesn't say.
        Raises ValueError where the keys or shapes are not those of a LapIRN.
        """
        converted, options = from_original_keys(state_dict)
        network = cls(diffeomorphic=diffeomorphic, range_flow=range_flow, **options)
        load_strictly(network, converted)
        return network


class Level(nn.Module):
    """The registration network of one resolution: encoder, residual blocks at half of it, decoder, and a head that gives the field.

    Channels: of the input, of the blocks (`channels`), of the encoder (`fine`), and of the embedding that goes on.
    """

    def __init__(self, inputs: int, channels: int, fine: int, embedding: int, dims: int, block: type[nn.Module]):
        super().__init__()
        convolution = CONVOLUTION[dims]
        self.encode = nn.ModuleList([convolution(inputs, fine, 3, 1, 1, bias=False), convolution(fine, fine, 3, 1, 1, bias=False)])
        self.down = convolution(fine, channels, 3, 2, 1, bias=False)
        self.blocks = nn.ModuleList(block(channels, dims) for _ in range(BLOCKS))
        self.up = TRANSPOSED[dims](channels, embedding, 2, 2, bias=False)
        both = embedding + fine
        self.head = nn.ModuleList([convolution(both, both // 2, 3, 1, 1, bias=False), convolution(both // 2, dims, 3, 1, 1, bias=False)])

    def forward(self, images: torch.Tensor, embedding: torch.Tensor | None, *condition: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, inputs, *level), and the embedding of the level before, which has half its size -> the field in -1..1, the embedding."""
        skip = self.encode[1](F.leaky_relu(self.encode[0](images), SLOPE))
        x = self.down(skip)
        if embedding is not None:
            x = x + embedding
        for block in self.blocks:
            x = F.leaky_relu(block(x, *condition), SLOPE)
        embedding = self.up(x)
        field = self.head[1](F.leaky_relu(self.head[0](torch.cat([embedding, skip], 1)), SLOPE))
        return F.softsign(field.float()), embedding  # in float32 under autocast too: a field needs more than 8 bits


def units(field: torch.Tensor) -> torch.Tensor:
    """(D, 1, ..) voxels in a normalised unit along each axis: (n - 1) / 2."""
    sizes = field.shape[2:]
    return torch.tensor([(n - 1) / 2 for n in sizes], device=field.device).reshape(-1, *[1] * len(sizes))


def doubled(field: torch.Tensor) -> torch.Tensor:
    """A field on a grid of twice the size, voxel edges on voxel edges; values are kept."""
    return ops.upsample(field, [2 * n for n in field.shape[2:]], 2.0, 0.5)
