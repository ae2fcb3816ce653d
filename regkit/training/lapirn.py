"""Training LapIRN as its authors do: one level after the other, the coarser ones resting at first while a new one finds its feet.

Of level p out of L, the loss is (Mok & Chung, L2R 2020, Eq. 1)

    S_p + dice * (1 - Dice_p) + smoothness / 2^(L - p) * |grad u_p|^2 + folds * mean(max(0, -det))

with the similarity pyramid S_p of p windows. As in the authors' code, the moving scan is sampled at full resolution at the level's voxels
and compared with the fixed scan of the level, and the field's gradient is measured in half voxels (so that their smoothness 1 is ours).
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from regkit import losses, ops
from regkit.data.config import DataConfig, Datasets
from regkit.errors import UsageError
from regkit.models.fields import LevelFields, to_size
from regkit.models.lapirn import LapIRN
from regkit.models.layers import halved
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

    def __init__(self, config: LapIRNTraining, data: Datasets):
        options = asdict(config.network)
        super().__init__("lapirn", LapIRN(**options), options, data, config, config.about)
        self.stages = [Stage(f"level {n + 1}", count) for n, count in enumerate(config.steps)]

    def trained(self, stage: int) -> Iterable[nn.Parameter]:
        return [p for level in self.network.levels[: stage + 1] for p in level.parameters()]

    def frozen(self, stage: int, step: int) -> Iterable[nn.Parameter]:
        resting = self.network.levels[:stage] if step < self.config.freeze else ()
        return [p for level in resting for p in level.parameters()]

    def displacement(self, fixed: torch.Tensor, moving: torch.Tensor, stage: int) -> torch.Tensor:
        """Of the levels trained so far, on the frame."""
        u = self.network.pyramid(fixed, moving, stage + 1)[-1].displacement
        size = fixed.shape[2:]
        factor = [whole / n for whole, n in zip(size, u.shape[2:])]
        return ops.upsample(u, size, factor, [(f - 1) / 2 for f in factor], scale=factor)

    def loss(self, batch: dict[str, torch.Tensor], stage: int) -> dict[str, torch.Tensor]:
        weights, fixed, moving = self.config.loss, batch["fixed"], batch["moving"]
        found = self.network.pyramid(fixed, moving, stage + 1)[-1]
        below = self.network.multiple.bit_length() - 2 - stage  # how often this level's grid was halved
        for _ in range(below):
            fixed = halved(fixed)
        warped = ops.warp(moving, found.at(moving.shape[2:]), padding="border")
        terms = {"similarity": losses.similarity_pyramid(fixed, warped, windows=weights.windows[-(stage + 1) :])}
        if weights.smoothness:
            terms["smoothness"] = losses.smoothness_loss(
                found.regularised, weight=HALF_VOXELS * weights.smoothness, level=below, by_level=weights.by_level
            )
        if weights.dice and self.labels:
            terms["dice"] = weights.dice * label_loss(found, batch["fixed_labels"], batch["moving_labels"], moving.shape[2:], self.labels)
        if weights.folds:
            terms["folds"] = weights.folds * losses.fold_loss(found.displacement)
        return terms


def label_loss(found: LevelFields, fixed: torch.Tensor, moving: torch.Tensor, frame: torch.Size, labels: tuple[int, ...]) -> torch.Tensor:
    """1 - Dice at a level: the fixed map by nearest neighbour at the level's voxels, the moving one warped in full.

    Maps that are finer than the frame count in full at the finest level, where the field is brought to their grid; coarser levels take
    every second (or so) of their voxels.
    """
    scale = fixed.shape[2] // frame[0]
    u = found.displacement
    if u.shape[2:] == frame and scale > 1:
        return losses.dice_loss(fixed, moving, ops.upsample(u, fixed.shape[2:], scale, (scale - 1) / 2, scale=scale), labels=labels)
    if scale > 1:
        every = (..., *[slice(scale // 2, None, scale)] * len(frame))
        fixed, moving = fixed[every].contiguous(), moving[every].contiguous()
    if u.shape[2:] != frame:
        fixed = ops.warp_labels(fixed, to_size(torch.zeros_like(u), frame), padding="border")
    return losses.dice_loss(fixed, moving, found.at(frame), labels=labels)
