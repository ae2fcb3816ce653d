"""What the engine trains: a task has the network, the samples, the loss and its own validation; the engine knows nothing of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from regkit.models.weights import Card
from regkit.training.distributed import World


@dataclass(frozen=True)
class Stage:
    """A part of a training, with an optimiser of its own."""

    name: str
    steps: int


@dataclass(frozen=True)
class Score:
    """What a validation found."""

    metrics: dict[str, float]
    pictures: dict[str, np.ndarray] = field(default_factory=dict)  # (H, W) or (H, W, 3), 0..1


class Task(ABC):
    """A network with what it learns from.

    dataset: sample n, for any n = 0, 1, 2, .., is a dict of tensors that depends on n (and the task's seed) alone, so that a training can
    go on anywhere.
    """

    network: nn.Module
    stages: Sequence[Stage]
    dataset: Dataset
    best: tuple[str, bool] = ("loss", False)
    """The metric that picks the best weights, and whether more is better."""

    @abstractmethod
    def trained(self, stage: int) -> Iterable[nn.Parameter]:
        """The parameters that a stage's optimiser holds."""

    def frozen(self, stage: int, step: int) -> Iterable[nn.Parameter]:
        """Those of them that rest at a step of the stage."""
        return ()

    @abstractmethod
    def loss(self, batch: dict[str, torch.Tensor], stage: int) -> dict[str, torch.Tensor]:
        """The terms of the loss of a batch, float32 scalars by name: means over the batch. Their sum is minimised."""

    @abstractmethod
    def validate(self, stage: int, world: World, device: torch.device) -> Score:
        """Scores the network; every process takes its share of the cases and all get the same metrics."""

    @abstractmethod
    def card(self, metrics: dict[str, float]) -> Card:
        """The model card of the network as it is now."""
