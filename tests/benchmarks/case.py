"""What a benchmark is: an op, its inputs, the providers that compute the same thing, what it must move and do, what it aims for."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

Size = tuple[int, ...]
Outputs = tuple[torch.Tensor, ...]
Run = Callable[[], Outputs]  # what is timed
Provider = Callable[..., Run]  # takes the inputs by name; what it does before it returns the run is not timed

REGKIT = "regkit"


@dataclass(frozen=True)
class OpCase:
    """One line of the registry. A new peer is one entry in `providers`, a new op is one OpCase.

    Before anything is timed, every provider's outputs are compared with regkit's: relative RMS difference at most `tolerance`.
    """

    name: str
    op: str  # its name in regkit.ops
    inputs: Callable[[Size, torch.Generator], dict[str, torch.Tensor]]  # made on the CPU, from a seeded generator
    providers: dict[str, Provider]  # "regkit" and its peers
    bytes_per_unit: float  # that must be moved to and from memory
    flops_per_unit: float
    tolerance: float = 1e-3
    unit: str = "voxel"
    units: Callable[[Size], int] = math.prod  # how many of them an image of this size has
    targets: dict[str, float] = field(default_factory=dict)  # peer -> how many times faster regkit is to be; information, not asserted
    memory_target: float | None = None  # at most so many volumes beyond the inputs; a volume is units x 4 bytes
    comparable: dict[str, Callable[[Outputs], Outputs]] = field(default_factory=dict)  # peer -> its outputs as regkit gives them, not timed
    dims: tuple[int, ...] = (2, 3)

    def run_of(self, provider: str, size: Size, device: str) -> Run:
        """The provider's run on inputs of this size, the same for every provider."""
        made = self.inputs(size, torch.Generator().manual_seed(0))
        return self.providers[provider](**{name: tensor.to(device) for name, tensor in made.items()})

    def difference(self, provider: str, outputs: Outputs, ours: Outputs) -> float:
        """Largest relative RMS difference between a provider's outputs and regkit's."""
        theirs = self.comparable.get(provider, lambda same: same)(outputs)
        return max(relative_rms(a, b) for a, b in zip(theirs, ours, strict=True))


def relative_rms(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return ((a - b).square().mean().sqrt() / b.square().mean().sqrt().clamp_min(1e-30)).item()
