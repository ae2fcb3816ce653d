"""Training LapIRN as its authors do: one level after the other, the coarser ones resting at first while a new one finds its feet.

Of level p out of L, the loss is (Mok & Chung, L2R 2020, Eq. 1)

    S_p + dice * (1 - Dice_p) + smoothness / 2^(L - p) * |grad u_p|^2 + folds * mean(max(0, -det))

with the similarity pyramid S_p of p windows; the field's gradient is measured in half voxels, as in the authors' code (so that their
smoothness 1 is ours). Fixed scan, moving scan and label maps are those of level p of their pyramids, as the paper has it. The authors' code
samples the moving scan in full resolution instead, corners of the level's grid on corners of the scan's: but the halved fixed scan's voxel
i lies on voxel 2 i, not on 2 i (n - 1/2) / (n - 1), so that scans of few voxels don't meet where they should (loss.original does that).
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from regkit import losses, ops
from regkit.data.config import DataConfig, Datasets
from regkit.errors import UsageError
from regkit.models.fields import LevelFields
from regkit.models.lapirn import LapIRN
from regkit.models.layers import halved
from regkit.models.networks import build
from regkit.training.config import Loop
from regkit.training.registration import About, RegistrationTask
from regkit.training.task import Stage

HALF_VOXELS = 4.0  # squared differences of a field in half voxels, over those in voxels


@dataclass(frozen=True)
class LapIRNNetwork:
    """Arguments of regkit.models.LapIRN."""

    levels: int = 3
    start_channels: int = 7
    diffeomorphic: bool = False
    range_flow: float = 0.4
    dims: int = 3
    lite: bool = False


@dataclass(frozen=True)
class LapIRNLoss:
    """Weights of the loss's terms."""

    windows: tuple[int, ...] = (7, 5, 3)
    """Of local NCC, from the level itself to the coarsest; level p takes the last p."""
    smoothness: float = 1.0
    by_level: bool = True
    """smoothness / 2^(levels - level), as the paper has it; else the same on all levels, as the authors' code has it."""
    original: bool = False
    """Compare the levels' images as the authors' code does, not as their paper says; for training that is to repeat theirs."""
    dice: float = 1.0
    """Of the labels, where the manifest has them; 0: without labels."""
    folds: float = 0.0

    def __post_init__(self):
        if any(w < 1 or w % 2 == 0 for w in self.windows):
            raise UsageError(f"loss.windows must be odd, but are {self.windows}")
        if min(self.smoothness, self.dice, self.folds) < 0:
            raise UsageError(f"weights of the loss must be at least 0, but are {self.smoothness}, {self.dice} and {self.folds}")


@dataclass(frozen=True)
class LapIRNTraining:
    """Everything that `regkit train lapirn` can be told; the defaults are the paper's, and where it is silent the authors' code's."""

    network: LapIRNNetwork = LapIRNNetwork()
    loss: LapIRNLoss = LapIRNLoss()
    steps: tuple[int, ...] = (30_000, 30_000, 60_000)
    """Of each level."""
    freeze: int = 2000
    """Steps of a level during which those before it rest."""
    data: DataConfig = field(default_factory=DataConfig)
    loop: Loop = Loop()
    about: About = About()

    def __post_init__(self):
        if len(self.steps) != self.network.levels or len(self.loss.windows) != self.network.levels:
            raise UsageError(
                f"network.levels is {self.network.levels}, but steps has {len(self.steps)} values and loss.windows has "
                f"{len(self.loss.windows)}; give one a level"
            )
        if min(self.steps) < 1 or self.freeze < 0:
            raise UsageError(f"steps must be at least 1 and freeze at least 0, but are {self.steps} and {self.freeze}")

    @property
    def multiple(self) -> int:
        """Of which the sizes of the network's frame are."""
        return 2**self.network.levels


class LapIRNTask(RegistrationTask):
    """LapIRN, learning from pairs."""

    network: LapIRN

    def __init__(self, config: LapIRNTraining, data: Datasets, kind: str = "lapirn"):
        options = asdict(config.network)
        super().__init__(kind, build(kind, options), options, data, config)
        self.stages = [Stage(f"level {n + 1}", count) for n, count in enumerate(config.steps)]

    def trained(self, stage: int) -> Iterable[nn.Parameter]:
        return [p for level in self.network.levels[: stage + 1] for p in level.parameters()]

    def frozen(self, stage: int, step: int) -> Iterable[nn.Parameter]:
        resting = self.network.levels[:stage] if step < self.config.freeze else ()
        return [p for level in resting for p in level.parameters()]

    def displacement(self, fixed: torch.Tensor, moving: torch.Tensor, stage: int) -> torch.Tensor:
        """Of the levels trained so far, on the frame."""
        u = self.network.pyramid(fixed, moving, stage + 1)[-1].displacement
        return ops.upsample(u, fixed.shape[2:], self._factor(stage), scale=self._factor(stage))

    def _factor(self, stage: int) -> int:
        """Voxel i of this stage's level lies on voxel `factor` i of the frame."""
        return 2 ** (len(self.network.levels) - 1 - stage)

    def fields(self, fixed: torch.Tensor, moving: torch.Tensor, depth: int) -> tuple[LevelFields, float | torch.Tensor]:
        """What the last of `depth` levels finds, and the weight of its smoothness."""
        return self.network.pyramid(fixed, moving, depth)[-1], self.config.loss.smoothness

    def loss(self, batch: dict[str, torch.Tensor], stage: int) -> dict[str, torch.Tensor]:
        weights, fixed, moving = self.config.loss, batch["fixed"], batch["moving"]
        found, smoothness = self.fields(fixed, moving, stage + 1)
        factor = self._factor(stage)
        for _ in range(factor.bit_length() - 1):
            fixed = halved(fixed)
            moving = moving if weights.original else halved(moving)
        warped = ops.warp(moving, found.at(moving.shape[2:]), padding="border")
        terms = {"similarity": losses.similarity_pyramid(fixed, warped, windows=weights.windows[-(stage + 1) :])}
        if weights.smoothness:
            level = factor.bit_length() - 1
            energy = losses.smoothness_loss(found.regularised, weight=HALF_VOXELS, level=level, by_level=weights.by_level)
            terms["smoothness"] = smoothness * energy
        if weights.dice and self.labels:
            maps = batch["fixed_labels"], batch["moving_labels"]
            terms["dice"] = weights.dice * label_loss(found.displacement, *maps, batch["fixed"].shape[2:], factor, self.labels)
        if weights.folds:
            terms["folds"] = weights.folds * losses.fold_loss(found.displacement)
        return terms


def label_loss(
    u: torch.Tensor, fixed: torch.Tensor, moving: torch.Tensor, frame: torch.Size, factor: int, labels: tuple[int, ...]
) -> torch.Tensor:
    """1 - Dice of a level whose voxel i lies on voxel `factor` i of the frame: the maps by nearest neighbour at the level's voxels.

    Maps that are finer than the frame count in full at the finest level, where the field is brought to their grid.
    """
    scale = fixed.shape[2] // frame[0]
    if factor == 1 and scale > 1:
        return losses.dice_loss(fixed, moving, ops.upsample(u, fixed.shape[2:], scale, (scale - 1) / 2, scale=scale), labels=labels)
    every = (..., *[slice(scale // 2, None, scale * factor)] * len(frame))
    return losses.dice_loss(fixed[every].contiguous(), moving[every].contiguous(), u, labels=labels)
