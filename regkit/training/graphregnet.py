"""Training GraphRegNet on similarity maps of landmarks, whose displacement is known.

The authors, who know no displacements, compare the warped features; here phantoms, or scans with landmarks, say where each point has gone.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from regkit.data.config import DataConfig, Datasets
from regkit.errors import UsageError
from regkit.models.graphregnet import GraphRegNet, nearest
from regkit.models.keypoint_model import unit_positions
from regkit.models.networks import build
from regkit.models.weights import Card
from regkit.registration.config import EmbeddingStage
from regkit.registration.progress import Progress, silent
from regkit.training.config import Loop
from regkit.training.distributed import World
from regkit.training.known_maps import KnownMaps, MapDataset, MapSamples, known_maps
from regkit.training.registration import card_of, summary
from regkit.training.single_stage import SingleStage, check_unchanged, unchanged_data
from regkit.training.task import Score, Stage, Task


@dataclass(frozen=True)
class GraphNetwork:
    """Arguments of regkit.models.GraphRegNet."""

    search_radius: int = 10
    """The pipeline's; the paper's is 14."""
    stride: int = 2
    patch_radius: int = 2
    neighbours: int = 15
    scale: float = 1.5
    dims: ClassVar[int] = 3


@dataclass(frozen=True)
class GraphTraining(SingleStage):
    """Everything that `regkit train graphregnet` can be told. The paper's rate is 0.1, for steps of a whole pair."""

    network: GraphNetwork = GraphNetwork()
    samples: MapSamples = MapSamples()
    steps: int = 5_000
    data: DataConfig = field(default_factory=unchanged_data)
    loop: Loop = Loop(batch=1, learning_rate=1e-2, schedule="cosine")

    def __post_init__(self):
        super().__post_init__()
        check_unchanged("graphregnet", self.data)
        if self.loop.batch != 1:
            raise UsageError(
                f"graphregnet takes one pair at once, whose keypoints are its batch: loop.batch must be 1, but is {self.loop.batch}"
            )

    multiple: ClassVar[int] = 1


class GraphTask(Task):
    """GraphRegNet; scored by the mean error at the landmarks of the validation pairs."""

    network: GraphRegNet
    best = ("error_mm", False)

    def __init__(self, config: GraphTraining, data: Datasets):
        self.config = config
        self.options = asdict(config.network)
        self.network = build("graphregnet", self.options)
        learned, held_out = both_maps(config, data)
        self.dataset, self.held_out = MapDataset(learned, config.samples, config.loop.seed), held_out
        self.stages = [Stage("all layers", config.steps)]

    def trained(self, stage: int) -> Iterable[nn.Parameter]:
        return self.network.parameters()

    def loss(self, batch: dict[str, torch.Tensor], stage: int) -> dict[str, torch.Tensor]:
        terms = []
        for n in range(len(batch["cost"])):
            moved = self._told(batch["cost"][n], batch["keypoints"][n], batch["shape"][n].tolist())
            terms.append(F.smooth_l1_loss(moved[: int(batch["known"][n])], batch["moved"][n]))
        return {"error": torch.stack(terms).mean()}

    def validate(self, stage: int, world: World, device: torch.device) -> Score:
        """Means over the pairs in mm: "error_mm" |told - true|, "motion_mm" |true|, which is the error of telling nothing."""
        found = [self._errors(self.held_out[n], device) for n in range(world.rank, len(self.held_out), world.size)]
        found = sum(world.gather(found), [])
        return Score(summary(found) if found else {})

    def card(self, metrics: dict[str, float]) -> Card:
        return card_of("graphregnet", self.options, self.config, metrics)

    def _told(self, cost: torch.Tensor, keypoints: torch.Tensor, shape: list[int]) -> torch.Tensor:
        place = unit_positions(keypoints, tuple(shape))
        return self.network.displacements(self.network(cost.float(), place, nearest(keypoints, self.network.neighbours)).float())

    def _errors(self, maps: KnownMaps, device: torch.device) -> dict[str, float]:
        told = self._told(maps.cost.to(device), maps.keypoints.to(device), maps.shape.tolist())[: len(maps.moved)].cpu()
        error, motion = ((x * maps.spacing).norm(dim=1).mean() for x in (told - maps.moved, maps.moved))
        return {"error_mm": float(error), "motion_mm": float(motion)}


def both_maps(config: GraphTraining, data: Datasets, progress: Progress = silent) -> tuple[list[KnownMaps], list[KnownMaps]]:
    """The maps of the training pairs and of the validation pairs."""
    learned, held_out = training_maps(config, data, progress=progress), data.validation
    if held_out is None:
        return learned, []
    return learned, known_maps(held_out.pairs, held_out.scans, held_out.shape, config.samples, _search(config), progress=progress)


def training_maps(config: GraphTraining, data: Datasets, features: str = "mind", progress: Progress = silent) -> list[KnownMaps]:
    """The maps of the training pairs and their copies, by features of the embedding (`embedding.features`)."""
    train, search = data.train, replace(_search(config), features=features)
    pairs = [tuple(train.pairs.cases[at] for at in train.pairs[k]) for k in range(len(train.pairs))]
    return known_maps(pairs, train.scans, train.shape, config.samples, search, config.samples.copies, progress)


def _search(config: GraphTraining) -> EmbeddingStage:
    network, samples = config.network, config.samples
    return EmbeddingStage(
        search_radius=network.search_radius, stride=network.stride, patch_radius=network.patch_radius, mind_radius=samples.mind_radius,
        mind_dilation=samples.mind_dilation,
    )  # fmt: skip


def prepare(config: GraphTraining, data: Datasets, progress: Progress) -> None:
    """Makes the maps, for the task to find them in the cache."""
    both_maps(config, data, progress)
