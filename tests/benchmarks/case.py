"""What a benchmark is: an op, its inputs, regkit's call and its peers', what must be moved and done at least, what is aimed for."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

Outputs = tuple[torch.Tensor, ...]
Function = Callable[..., torch.Tensor | Outputs]  # of the inputs by name; with a gradient, the first output is what is differentiated
Run = Callable[[], Outputs]  # what is timed


@dataclass(frozen=True)
class Size:
    """The images that an op is timed on: (batch, channels, *spatial)."""

    spatial: tuple[int, ...]
    batch: int = 1
    channels: int = 1

    @property
    def dims(self) -> int:
        return len(self.spatial)

    @property
    def voxels(self) -> int:
        return self.batch * math.prod(self.spatial)

    def __str__(self) -> str:
        image = "x".join(map(str, self.spatial))
        return image if self.batch == self.channels == 1 else f"{self.batch} x {self.channels} x {image}"


SIZES = {
    "brain": Size((160, 192, 224)),
    "lung": Size((192, 192, 208)),
    "abdomen": Size((192, 160, 256)),
    "x-ray": Size((256, 256), batch=32),
    "small": Size((96, 96, 96)),
    "features": Size((128, 128, 128), batch=2, channels=16),  # only cases that name it in `sizes` run on it
}
IMAGES = tuple(name for name, size in SIZES.items() if size.channels == 1)


@dataclass(frozen=True)
class Peer:
    """Another way to compute what the op computes: a function of the same inputs.

    Before anything is timed its outputs, gradients too, are compared with regkit's.
    """

    function: Function
    prepare: Callable[..., dict] | None = None  # untimed set-up: of the inputs by name, returns what the function takes by name
    compile: bool = False  # is timed through torch.compile too, as a provider of its own
    needs: str = ""  # the module that must be there; its absence is one line of output
    devices: tuple[str, ...] = ("cpu", "cuda")
    dims: tuple[int, ...] = (2, 3)
    comparable: Callable[[Outputs], Outputs] = lambda outputs: outputs  # its outputs as regkit gives them, untimed


@dataclass(frozen=True)
class OpCase:
    """One line of the registry.

    `inputs` makes named tensors (and what else is needed, such as a size) on the CPU from a seeded generator; `regkit` and every peer's
    function take them by name. Without
    `gradient` the forward pass is timed; with it, forward and backward to the inputs named there, from the incoming gradient `grad_out`
    among the inputs (which no function sees; none is needed for a scalar). Bytes and FLOPs are those that the op cannot do without, of
    forward and backward together; functions of the size where they depend on it.
    """

    name: str
    op: str  # its name in regkit.ops: the backends that it has are timed
    inputs: Callable[[Size, torch.Generator], dict]
    regkit: Function
    peers: dict[str, Peer]
    bytes_per_unit: float | Callable[[Size], float]
    flops_per_unit: float | Callable[[Size], float]
    gradient: tuple[str, ...] = ()
    unit: str = "voxel"
    units: Callable[[Size], int] = lambda size: size.voxels  # how many of them there are
    tolerance: float = 1e-3  # of the relative RMS difference
    targets: dict[str, float] = field(default_factory=dict)  # peer -> how many times faster regkit is to be on the CPU; information
    memory_target: float | None = None  # at most so many volumes beyond the inputs, outputs counted; a volume is units x 4 bytes
    dims: tuple[int, ...] = (2, 3)
    sizes: tuple[str, ...] = IMAGES
    dtype: torch.dtype = torch.float32  # of the images; the inputs named in `cast` are converted to it
    cast: tuple[str, ...] = ()
    comparable: Callable[[Outputs], Outputs] = lambda outputs: outputs  # regkit's and everyone's outputs, made comparable, untimed

    def make(self, size: Size) -> dict:
        """The inputs on the CPU, the same for every provider."""
        made = self.inputs(size, torch.Generator().manual_seed(0))
        return {name: x.to(self.dtype) if name in self.cast else x for name, x in made.items()}

    def bytes_moved(self, size: Size) -> float:
        return self.units(size) * (self.bytes_per_unit(size) if callable(self.bytes_per_unit) else self.bytes_per_unit)

    def flops(self, size: Size) -> float:
        return self.units(size) * (self.flops_per_unit(size) if callable(self.flops_per_unit) else self.flops_per_unit)

    def volume_bytes(self, size: Size) -> int:
        return 4 * self.units(size)


def relative_rms(a: torch.Tensor, b: torch.Tensor) -> float:
    """RMS of a - b over that of b. Infinite where a is NaN and b is not."""
    a, b = a.detach().double(), b.detach().double()
    difference = ((a - b).square().mean().sqrt() / b.square().mean().sqrt().clamp_min(1e-30)).item()
    return math.inf if math.isnan(difference) else difference
