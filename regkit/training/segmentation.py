"""Training the segmentation U-Net: cross-entropy, and the distance of the contours (He et al. 2022, Eq. 3).

It learns from the same pairs as a registration network, each pair being two scans with their label maps.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from regkit import losses
from regkit.data.config import Datasets
from regkit.errors import InputError, UsageError
from regkit.geometry import Image, resample
from regkit.metrics import dice
from regkit.models.networks import build
from regkit.models.segmentation_unet import SegmentationUNet
from regkit.models.weights import Card
from regkit.training.config import Loop
from regkit.training.distributed import World
from regkit.training.registration import card_of, summary
from regkit.training.single_stage import SingleStage
from regkit.training.task import Score, Stage, Task


@dataclass(frozen=True)
class SegmentationNetwork:
    """Arguments of regkit.models.SegmentationUNet; its classes follow from the labels."""

    channels: int = 16
    dims: int = 2


@dataclass(frozen=True)
class SegmentationLoss:
    """Weights of the loss's terms."""

    contour: float = 1.75
    norm: Literal["mean-square", "l2"] = "mean-square"
    """Of the difference of the contours."""

    def __post_init__(self):
        if self.contour < 0:
            raise UsageError(f"loss.contour must be at least 0, but is {self.contour}")


@dataclass(frozen=True)
class SegmentationTraining(SingleStage):
    """Everything that `regkit train segmentation-unet` can be told. The paper says nothing of steps, batch and rate."""

    network: SegmentationNetwork = SegmentationNetwork()
    loss: SegmentationLoss = SegmentationLoss()
    loop: Loop = Loop(batch=8, learning_rate=1e-3)

    @property
    def multiple(self) -> int:
        """Of which the sizes of the network's frame are."""
        return SegmentationUNet.multiple


class SegmentationTask(Task):
    """The segmentation U-Net, learning from labelled scans; scored by Dice on the label maps' own grids."""

    network: SegmentationUNet
    best = ("dice", True)

    def __init__(self, config: SegmentationTraining, data: Datasets):
        self.config, self.dataset, self.validation = config, data.train, data.validation
        self.labels = labels_of(data, "segmentation-unet")
        self.options = asdict(config.network) | {"classes": 1 + len(self.labels)}
        self.network = build("segmentation-unet", self.options)
        self.stages = [Stage("all layers", config.steps)]

    def trained(self, stage: int) -> Iterable[nn.Parameter]:
        return self.network.parameters()

    def loss(self, batch: dict[str, torch.Tensor], stage: int) -> dict[str, torch.Tensor]:
        scans, maps = (torch.cat([batch[f"fixed{what}"], batch[f"moving{what}"]]) for what in ("", "_labels"))
        logits, truth = self.network(scans).float(), losses.one_hot(maps, self.labels)
        terms = {"cross_entropy": F.cross_entropy(logits, losses.class_map(maps, self.labels))}
        if self.config.loss.contour:
            contours = losses.contour_loss(logits.softmax(1), truth, norm=self.config.loss.norm)
            terms["contour"] = self.config.loss.contour * contours
        return terms

    def validate(self, stage: int, world: World, device: torch.device) -> Score:
        """Mean Dice of the labels over the validation scans."""
        if self.validation is None:
            return Score({})
        found, pictures, cases = [], {}, validation_places(self.validation)
        for place, n in enumerate(cases):
            if place % world.size != world.rank:
                continue
            pair = self.validation[n]
            probabilities = self.network(pair.fixed.to(device)).float().softmax(1).cpu()
            found.append({"dice": segmentation_dice(probabilities, pair.frame, pair.fixed_labels, self.labels)})
            if place == 0:
                pictures = {"validation": torch.cat([pair.fixed[0, 0], 1 - probabilities[0, 0]]).numpy()} if pair.fixed.dim() == 4 else {}
        found = sum(world.gather(found), [])
        return Score(summary(found), pictures if world.leads else {})

    def card(self, metrics: dict[str, float]) -> Card:
        return card_of("segmentation-unet", self.options, self.config, metrics)


def labels_of(data: Datasets, kind: str) -> tuple[int, ...]:
    """The labels to learn. Raises InputError where a scan has no label map."""
    cases = [case for pairs in (data.validation.pairs if data.validation else ()) for case in pairs]
    if not data.train.labels or not all(case.label for case in cases):
        raise InputError(f"{kind} learns from label maps, and not every scan has one (column label of the manifest)")
    if data.train.scans.label_scale != 1:
        raise UsageError(f"{kind} takes label maps on its own grid: data.label_scale must be 1, but is {data.train.scans.label_scale}")
    return data.train.labels


def validation_places(validation) -> list[int]:
    """For each scan that is the fixed one of a validation pair, the number of the first such pair."""
    places: dict = {}
    for n, (fixed, _) in enumerate(validation.pairs):
        places.setdefault(fixed.name, n)
    return list(places.values())


def segmentation_dice(probabilities: torch.Tensor, frame, truth: Image, labels: tuple[int, ...]) -> float:
    """Mean Dice of a segmentation (1, K, *frame.shape), brought linearly to the label map's own grid and decided there."""
    maps = [resample(Image(channel.numpy(), frame), truth.grid, padding="border").data for channel in probabilities[0]]
    decided = torch.tensor([0, *labels])[torch.stack([torch.from_numpy(m) for m in maps]).argmax(0)]
    return float(sum(dice(truth, Image(decided.numpy(), truth.grid)).values()) / len(labels))
