"""Training VoxelMorph: local NCC and the smoothness of the field, with labels where there are some (Balakrishnan et al. 2019)."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import nn

from regkit import losses, ops
from regkit.data.config import Datasets
from regkit.errors import UsageError
from regkit.models.networks import build
from regkit.models.voxelmorph import VoxelMorph
from regkit.training.lapirn import label_loss
from regkit.training.registration import RegistrationTask
from regkit.training.single_stage import SingleStage
from regkit.training.task import Stage


@dataclass(frozen=True)
class VoxelMorphNetwork:
    """Arguments of regkit.models.VoxelMorph."""

    variant: Literal["vxm-1", "vxm-2"] = "vxm-2"
    diffeomorphic: bool = False
    dims: int = 3
    int_steps: int = 7
    int_downsize: int = 2


@dataclass(frozen=True)
class VoxelMorphLoss:
    """Weights of the loss's terms."""

    window: int = 9
    """Of local NCC."""
    smoothness: float = 1.0
    dice: float = 0.0
    """Of the labels, where the manifest has them."""
    folds: float = 0.0

    def __post_init__(self):
        if self.window < 1 or self.window % 2 == 0:
            raise UsageError(f"loss.window must be odd, but is {self.window}")
        if min(self.smoothness, self.dice, self.folds) < 0:
            raise UsageError(f"weights of the loss must be at least 0, but are {self.smoothness}, {self.dice} and {self.folds}")


@dataclass(frozen=True)
class VoxelMorphTraining(SingleStage):
    """Everything that `regkit train voxelmorph` can be told."""

    network: VoxelMorphNetwork = VoxelMorphNetwork()
    loss: VoxelMorphLoss = VoxelMorphLoss()
    steps: int = 100_000

    @property
    def multiple(self) -> int:
        """Of which the sizes of the network's frame are."""
        return VoxelMorph.multiple


class VoxelMorphTask(RegistrationTask):
    """VoxelMorph, learning from pairs."""

    kind = "voxelmorph"
    network: VoxelMorph

    def __init__(self, config: VoxelMorphTraining, data: Datasets):
        options = asdict(config.network)
        super().__init__(self.kind, build(self.kind, options), options, data, config)
        self.stages = [Stage("all layers", config.steps)]

    def trained(self, stage: int) -> Iterable[nn.Parameter]:
        return self.network.parameters()

    def loss(self, batch: dict[str, torch.Tensor], stage: int) -> dict[str, torch.Tensor]:
        weights, fixed, moving = self.config.loss, batch["fixed"], batch["moving"]
        found = self.network.fields(fixed, moving)
        terms = {"similarity": losses.lncc_loss(fixed, ops.warp(moving, found.displacement), window=weights.window)}
        if weights.smoothness:
            # The velocity's counts as many times as its grid is coarser: the authors' rule.
            share = self.config.network.int_downsize if found.velocity is not None else 1
            terms["smoothness"] = losses.smoothness_loss(found.regularised, weight=share * weights.smoothness)
        if weights.dice and self.labels:
            maps = batch["fixed_labels"], batch["moving_labels"]
            terms["dice"] = weights.dice * label_loss(found.displacement, *maps, fixed.shape[2:], 1, self.labels)
        if weights.folds:
            terms["folds"] = weights.folds * losses.fold_loss(found.displacement)
        return terms
