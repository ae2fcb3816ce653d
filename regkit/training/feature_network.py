"""Training the feature network: to give, of an image, its MIND-SSC descriptors at every second voxel."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from regkit import ops
from regkit.data.augment import AffineAugmentation
from regkit.data.config import DataConfig, Datasets
from regkit.data.intensity import IntensityAugmentation
from regkit.errors import UsageError
from regkit.models.feature_network import STRIDE, FeatureNetwork
from regkit.models.networks import build
from regkit.models.weights import Card
from regkit.training.config import Loop
from regkit.training.distributed import World
from regkit.training.registration import card_of, summary
from regkit.training.segmentation import validation_places
from regkit.training.single_stage import SingleStage
from regkit.training.task import Score, Stage, Task


@dataclass(frozen=True)
class FeatureNetworkOptions:
    """Arguments of regkit.models.FeatureNetwork."""

    channels: int = 16
    dims: int = 3


@dataclass(frozen=True)
class Target:
    """The descriptors to predict; see regkit.ops.mind_ssc."""

    radius: int = 1
    dilation: int = 1

    def __post_init__(self):
        if self.radius < 0 or self.dilation < 1:
            raise UsageError(f"target.radius must be at least 0 and dilation at least 1, but are {self.radius} and {self.dilation}")


def _wandering() -> DataConfig:
    """Parts of scans from everywhere, in every contrast: set data.input.shape to the parts' size."""
    return DataConfig(
        augmentation=AffineAugmentation(probability=1.0, rotation=20.0, translation=0.5, scale=0.3),
        intensity=IntensityAugmentation(probability=0.7, gamma=0.5, noise=0.02),
    )


@dataclass(frozen=True)
class FeatureTraining(SingleStage):
    """Everything that `regkit train feature-network` can be told. The paper says only what the network predicts."""

    network: FeatureNetworkOptions = FeatureNetworkOptions()
    target: Target = Target()
    steps: int = 3_000
    data: DataConfig = field(default_factory=_wandering)
    loop: Loop = Loop(batch=2, learning_rate=2e-3, schedule="cosine")

    @property
    def multiple(self) -> int:
        """Of which the sizes of the network's frame are."""
        return FeatureNetwork.multiple


class FeatureTask(Task):
    """The feature network, learning from both scans of every pair; scored on whole scans that it has not seen."""

    network: FeatureNetwork
    best = ("mse", False)

    def __init__(self, config: FeatureTraining, data: Datasets):
        self.config, self.dataset, self.validation = config, data.train, data.validation
        self.options = asdict(config.network)
        self.network = build("feature-network", self.options)
        self.stages = [Stage("all layers", config.steps)]

    def trained(self, stage: int) -> Iterable[nn.Parameter]:
        return self.network.parameters()

    def loss(self, batch: dict[str, torch.Tensor], stage: int) -> dict[str, torch.Tensor]:
        scans = torch.cat([batch["fixed"], batch["moving"]])
        return {"mse": F.mse_loss(self.network(scans), self._truth(scans))}

    def validate(self, stage: int, world: World, device: torch.device) -> Score:
        """Means over the validation scans: "mse", the squared error; "variance", that of the descriptors around their channel's mean, which
        is the error of an answer that does not look at the scan; both over all voxels.
        """
        if self.validation is None:
            return Score({})
        found = []
        for place, n in enumerate(validation_places(self.validation)):
            if place % world.size == world.rank:
                scan = self.validation[n].fixed.to(device)
                truth = self._truth(scan)
                mse = F.mse_loss(self.network(scan).float(), truth)
                found.append({"mse": float(mse), "variance": float(truth.flatten(2).var(2, correction=0).mean())})
        found = sum(world.gather(found), [])
        return Score(summary(found))

    def card(self, metrics: dict[str, float]) -> Card:
        return card_of("feature-network", self.options, self.config, metrics)

    def _truth(self, scans: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return ops.mind_ssc(scans.float(), radius=self.config.target.radius, dilation=self.config.target.dilation, pool=STRIDE)
