"""Training the similarity-steered CNN on patches, by the squared error of the displacement in their middle (Cao et al. 2017)."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import torch
from torch import nn

from regkit.data.config import DataConfig, Datasets
from regkit.models.networks import build
from regkit.models.similarity_registration import SimilarityRegistration
from regkit.models.weights import Card
from regkit.registration.progress import Progress
from regkit.training.config import Loop
from regkit.training.distributed import World
from regkit.training.patches import PatchDataset, Samples, known_pairs, patch_datasets
from regkit.training.registration import card_of
from regkit.training.single_stage import SingleStage, check_unchanged, unchanged_data
from regkit.training.task import Score, Stage, Task

BATCH = 64  # patches at once when the held-out samples are looked at


@dataclass(frozen=True)
class SimilarityNetwork:
    """Arguments of regkit.models.SimilarityRegistration."""

    width: float = 1.0
    """Of the convolutions, over the paper's."""
    longest: float = 7.0
    """Voxels along an axis that the CNN can tell; tau of the sampling too."""
    patch: int = 27
    """Voxels along an axis: 19, 23, 27 or 31; 19 holds half the longest displacement."""
    kernel_sizes: tuple[int, ...] = (3, 5, 7, 9)
    """Of the similarity maps; empty for a network without them."""
    share: float = 0.009
    """Of the voxels, at how many the CNN tells the displacement of new scans."""
    iterations: int = 2
    batch: int = 64
    neighbours: int = 64
    spacing: float = 8.0
    smoothing: float = 0.0
    """Of the spline through these displacements."""
    bfloat16: bool = False
    """Whether the CNN computes in it when it registers new scans."""
    dims: ClassVar[int] = 3


@dataclass(frozen=True)
class SimilarityTraining(SingleStage):
    """Everything that `regkit train similarity-cnn` can be told.

    Paper: rate 0.01, halved every 70,000 steps; nothing of solver, batch and number of steps. The engine's solver is Adam.
    """

    network: SimilarityNetwork = SimilarityNetwork()
    samples: Samples = Samples()
    steps: int = 350_000
    data: DataConfig = field(default_factory=unchanged_data)
    loop: Loop = Loop(batch=64, learning_rate=1e-3, schedule="cosine")

    def __post_init__(self):
        super().__post_init__()
        check_unchanged("similarity-cnn", self.data)

    @property
    def multiple(self) -> int:
        """Of which the sizes of the network's frame are."""
        return SimilarityRegistration.multiple


def prepare(config: SimilarityTraining, data: Datasets, progress: Progress) -> None:
    """Registers the training pairs, for the task to find them in the cache."""
    known_pairs(config.samples, data, config.loop.seed, progress)


class SimilarityTask(Task):
    """The CNN, learning from patches; scored by the mean error on samples that were held out."""

    network: SimilarityRegistration
    best = ("error_mm", False)

    def __init__(self, config: SimilarityTraining, data: Datasets):
        self.config, self.validation = config, data.validation
        self.options = asdict(config.network)
        self.network = build("similarity-cnn", self.options)
        pairs, seed = known_pairs(config.samples, data, config.loop.seed), config.loop.seed
        seen = {"patch_size": config.network.patch, "kernel_sizes": config.network.kernel_sizes}
        self.dataset, self.held_out = patch_datasets(config.samples, pairs, config.network.longest, seed, **seen)
        self.stages = [Stage("all layers", config.steps)]

    def trained(self, stage: int) -> Iterable[nn.Parameter]:
        return self.network.parameters()

    def loss(self, batch: dict[str, torch.Tensor], stage: int) -> dict[str, torch.Tensor]:
        error = (self._told(batch["patches"]) - batch["displacement"]) / self.network.cnn.longest
        return {"square": error.square().mean()}

    def validate(self, stage: int, world: World, device: torch.device) -> Score:
        """Means over the held-out samples in mm: "error_mm" |told - true|, "motion_mm" |true|, which is the error of telling nothing."""
        places = range(world.rank, len(self.held_out), world.size)
        found = sum(world.gather([patch_errors(self._told, self.held_out, places, device)]), [])
        count = sum(part["count"] for part in found)
        return Score({name: sum(part[name] for part in found) / count for name in ("error_mm", "motion_mm")})

    def card(self, metrics: dict[str, float]) -> Card:
        return card_of("similarity-cnn", self.options, self.config, metrics)

    def _told(self, patches: torch.Tensor) -> torch.Tensor:
        return self.network.cnn(patches[:, :1], patches[:, 1:2], patches[:, 2:])


def patch_errors(told, samples: PatchDataset, places: Iterable[int], device: torch.device) -> dict[str, float]:
    """Sums over the samples of these numbers: "error_mm", "motion_mm" and "count". told: patches (N, 2 + K, ..) to displacements (N, 3)."""
    places, sums = list(places), {"error_mm": 0.0, "motion_mm": 0.0, "count": 0}
    for start in range(0, len(places), BATCH):
        part = samples.__getitems__(places[start : start + BATCH])
        true, spacing = (torch.stack([sample[name] for sample in part]) for name in ("displacement", "spacing"))
        found = told(torch.stack([sample["patches"] for sample in part]).to(device)).detach().float().cpu()
        sums["error_mm"] += float(((found - true) * spacing).norm(dim=1).sum())
        sums["motion_mm"] += float((true * spacing).norm(dim=1).sum())
        sums["count"] += len(part)
    return sums
