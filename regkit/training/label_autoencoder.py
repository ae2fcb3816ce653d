"""Training the denoising auto-encoder of label maps, whose code then says how like two shapes are (He et al. 2022, Eq. 4; AC-RegNet).

The network sees label maps in which neighbours along the first array axis (across the body, as images of chests are read) are exchanged
here and there, and gives them back as they were.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from regkit import losses
from regkit.data.config import Datasets
from regkit.data.pairs import see_case
from regkit.errors import UsageError
from regkit.models.label_autoencoder import LabelAutoencoder
from regkit.models.networks import build
from regkit.models.weights import Card
from regkit.training.config import Loop
from regkit.training.distributed import World
from regkit.training.registration import card_of, summary
from regkit.training.segmentation import labels_of, segmentation_dice, validation_places
from regkit.training.single_stage import SingleStage
from regkit.training.task import Score, Stage, Task


@dataclass(frozen=True)
class AutoencoderNetwork:
    """Arguments of regkit.models.LabelAutoencoder; its classes follow from the labels, its size from the frame."""

    code: int = 32
    dims: ClassVar[int] = 2


@dataclass(frozen=True)
class AutoencoderLoss:
    """Weights of the loss's terms."""

    contour: float = 2.0
    norm: Literal["mean-square", "l2"] = "mean-square"
    swap: float = 0.1
    """Probability that a pixel changes places with its neighbour."""

    def __post_init__(self):
        if self.contour < 0 or not 0 <= self.swap <= 1:
            raise UsageError(f"loss.contour must be at least 0 and loss.swap from 0 to 1, but they are {self.contour} and {self.swap}")


@dataclass(frozen=True)
class AutoencoderTraining(SingleStage):
    """Everything that `regkit train label-autoencoder` can be told; steps, batch and rate are AC-RegNet's."""

    network: AutoencoderNetwork = AutoencoderNetwork()
    loss: AutoencoderLoss = AutoencoderLoss()
    loop: Loop = Loop(batch=8, learning_rate=1e-3)

    @property
    def multiple(self) -> int:
        """Of which the sizes of the network's frame are."""
        return LabelAutoencoder.multiple


class AutoencoderTask(Task):
    """The auto-encoder, learning from label maps; scored by the Dice of what it gives back of a clean one."""

    network: LabelAutoencoder
    best = ("dice", True)

    def __init__(self, config: AutoencoderTraining, data: Datasets):
        self.config, self.dataset, self.validation = config, data.train, data.validation
        self.labels = labels_of(data, "label-autoencoder")
        shape = data.train.shape
        if len(set(shape)) != 1:
            raise UsageError(
                f"label-autoencoder needs a frame with as many voxels along each axis, and it is {shape}; set data.input.shape"
            )
        self.options = {"code": config.network.code, "classes": 1 + len(self.labels), "size": shape[0]}
        self.network = build("label-autoencoder", self.options)
        self.stages = [Stage("all layers", config.steps)]

    def trained(self, stage: int) -> Iterable[nn.Parameter]:
        return self.network.parameters()

    def loss(self, batch: dict[str, torch.Tensor], stage: int) -> dict[str, torch.Tensor]:
        maps = torch.cat([batch["fixed_labels"], batch["moving_labels"]])
        truth = losses.one_hot(maps, self.labels)
        logits = self.network(swapped(truth, self.config.loss.swap)).float()
        terms = {"cross_entropy": F.cross_entropy(logits, losses.class_map(maps, self.labels))}
        if self.config.loss.contour:
            terms["contour"] = self.config.loss.contour * losses.contour_loss(logits.softmax(1), truth, norm=self.config.loss.norm)
        return terms

    def validate(self, stage: int, world: World, device: torch.device) -> Score:
        """Mean Dice of the validation scans' label maps with what the network gives back."""
        if self.validation is None:
            return Score({})
        found = []
        for place, n in enumerate(validation_places(self.validation)):
            if place % world.size != world.rank:
                continue
            pair = self.validation[n]
            seen = see_case(self.validation.scans[pair.fixed_case], pair.frame)["labels"]
            again = self.network(losses.one_hot(seen, self.labels).to(device)).float().softmax(1).cpu()
            found.append({"dice": segmentation_dice(again, pair.frame, pair.fixed_labels, self.labels)})
        return Score(summary(sum(world.gather(found), [])))

    def card(self, metrics: dict[str, float]) -> Card:
        return card_of("label-autoencoder", self.options, self.config, metrics)


def swapped(maps: torch.Tensor, probability: float) -> torch.Tensor:
    """Maps (B, K, *spatial) in which pixels, each with this probability, have changed places with the next along the first spatial axis.

    Disjoint pairs are drawn (pixels 0-1, 2-3, .. or 1-2, 3-4, .., a coin for each map), so that nothing is lost or doubled; a pair is
    exchanged with that probability.
    """
    batch, _, length = maps.shape[:3]
    place = torch.arange(length, device=maps.device).expand(batch, length)
    start = torch.randint(2, (batch, 1), device=maps.device)
    partner = place + torch.where((place - start) % 2 == 0, 1, -1)
    partner = torch.where((partner < 0) | (partner >= length), place, partner)  # an end that is left alone stays
    shape = (batch, 1, *maps.shape[2:])
    place, partner = (x.reshape(batch, 1, length, *[1] * (maps.dim() - 3)).expand(shape) for x in (place, partner))
    chosen = torch.rand(shape, device=maps.device).gather(2, torch.minimum(place, partner)) < probability  # one number for both of a pair
    return maps.gather(2, torch.where(chosen, partner, place).expand(maps.shape))
