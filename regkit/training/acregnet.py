"""Training AC-RegNet, the baseline of learned X-ray registration: NCC, labels, the code of their shape, total variation (Mansilla et al.
2020).

The authors' weight 5e-5 counts the sum of the variation over 64 x 64 pixels and 2 axes, ours its mean over them: 0.81.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import nn

from regkit import losses, ops
from regkit.data.config import Datasets
from regkit.errors import UsageError
from regkit.models.acregnet import ACRegNet
from regkit.models.networks import build
from regkit.training.config import Loop
from regkit.training.registration import RegistrationTask
from regkit.training.segmentation import labels_of
from regkit.training.shape import ShapeLoss, ShapeWeights
from regkit.training.single_stage import SingleStage
from regkit.training.task import Stage


@dataclass(frozen=True)
class ACRegNetNetwork:
    """Arguments of regkit.models.ACRegNet."""

    dims: int = 2


@dataclass(frozen=True)
class ACRegNetLoss:
    """Weights of the loss's terms."""

    ncc: float = 1.0
    shape: ShapeWeights = ShapeWeights(total_variation=0.81)

    def __post_init__(self):
        if self.ncc < 0:
            raise UsageError(f"loss.ncc must be at least 0, but is {self.ncc}")


@dataclass(frozen=True)
class ACRegNetTraining(SingleStage):
    """Everything that `regkit train ac-regnet` can be told; the defaults are those of the authors' code."""

    network: ACRegNetNetwork = ACRegNetNetwork()
    autoencoder: str | None = None
    """Weights of a trained label-autoencoder."""
    loss: ACRegNetLoss = ACRegNetLoss()
    loop: Loop = Loop(batch=32, learning_rate=1e-3)

    @property
    def multiple(self) -> int:
        """Of which the sizes of the network's frame are."""
        return ACRegNet(**asdict(self.network)).multiple


class ACRegNetTask(RegistrationTask):
    """AC-RegNet, learning from pairs with label maps."""

    network: ACRegNet

    def __init__(self, config: ACRegNetTraining, data: Datasets):
        labels, options = labels_of(data, "ac-regnet"), asdict(config.network)
        super().__init__("ac-regnet", build("ac-regnet", options), options, data, config)
        self.shape = ShapeLoss(config.loss.shape, labels, data.train.shape, config.autoencoder)
        self.stages = [Stage("all layers", config.steps)]

    def trained(self, stage: int) -> Iterable[nn.Parameter]:
        return self.network.parameters()

    def loss(self, batch: dict[str, torch.Tensor], stage: int) -> dict[str, torch.Tensor]:
        u = self.network(batch["fixed"], batch["moving"])
        terms = {}
        if self.config.loss.ncc:
            moved = ops.warp(batch["moving"], u, padding="border")
            terms["ncc"] = self.config.loss.ncc * losses.global_ncc_loss(batch["fixed"], moved)
        return terms | self.shape.terms(u, batch["fixed_labels"], batch["moving_labels"])
