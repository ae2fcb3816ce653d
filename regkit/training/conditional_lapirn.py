"""Training conditional LapIRN: each step draws a smoothness, tells it to the network, and weighs the loss by it (Mok & Chung 2021)."""

from dataclasses import dataclass

import torch

from regkit.data.config import Datasets
from regkit.models.conditional_lapirn import ConditionalLapIRN
from regkit.models.fields import LevelFields
from regkit.training.lapirn import LapIRNLoss, LapIRNTask, LapIRNTraining


@dataclass(frozen=True)
class ConditionalLapIRNLoss(LapIRNLoss):
    """Weights of the loss's terms; `smoothness` is the weight at smoothness 1."""

    smoothness: float = 10.0


@dataclass(frozen=True)
class ConditionalLapIRNTraining(LapIRNTraining):
    """Everything that `regkit train conditional-lapirn` can be told."""

    loss: ConditionalLapIRNLoss = ConditionalLapIRNLoss()
    freeze: int = 3000
    """Steps of a level during which those before it rest."""


class ConditionalLapIRNTask(LapIRNTask):
    """Conditional LapIRN, learning from pairs; validated at smoothness 0.5."""

    network: ConditionalLapIRN

    def __init__(self, config: ConditionalLapIRNTraining, data: Datasets):
        super().__init__(config, data, "conditional-lapirn")

    def fields(self, fixed: torch.Tensor, moving: torch.Tensor, depth: int) -> tuple[LevelFields, float | torch.Tensor]:
        smoothness = torch.rand(()).to(fixed.device)
        return self.network.pyramid(fixed, moving, depth, smoothness=smoothness)[-1], self.config.loss.smoothness * smoothness
