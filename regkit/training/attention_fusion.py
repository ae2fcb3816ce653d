"""Training the attention-guided fusion of fields of several scales (He et al. 2022).

The attention network is trained first (regkit train segmentation-unet), then the auto-encoder (label-autoencoder), then with both at rest
the registration network, by

    -(ncc NCC + ssim SSIM) + cross_entropy CE + code |e(fixed) - e(moved)|^2 + total_variation TV

on the scans as the attention masks leave them (images = "cleaned"), or as they are ("raw"); the paper does not say which.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import lcm
from typing import Any, Literal

import torch
from torch import nn

from regkit import losses, ops
from regkit.data.config import Datasets
from regkit.errors import InputError, UsageError
from regkit.models.attention_fusion import AttentionFusion, Cleaned
from regkit.models.mask_refinement import MaskRefinement
from regkit.models.networks import build
from regkit.models.segmentation_unet import SegmentationUNet
from regkit.models.weights import load_model
from regkit.training.config import Loop
from regkit.training.registration import RegistrationTask
from regkit.training.segmentation import labels_of
from regkit.training.shape import ShapeLoss, ShapeWeights
from regkit.training.single_stage import SingleStage
from regkit.training.task import Stage

SIDES = ("fixed", "moving")
KEPT_BYTES = 1e9  # of cleaned scans


@dataclass(frozen=True)
class FusionNetwork:
    """Arguments of regkit.models.DenseFusion, and how the mask is taken."""

    channels: tuple[int, ...] = (16, 32, 64, 128)
    scales: int = 4
    attention: bool = True
    """Weigh the coarser fields by learned weights (DFSA); else they are added."""
    gate: Literal["lower", "own"] = "lower"
    fuse: Literal["chained", "direct"] = "chained"
    diffeomorphic: bool = False
    int_steps: int = 7
    dropout: float = 0.0
    mask: Literal["hard", "soft", "none"] = "hard"
    """Of the attention network; none: there is no such network."""
    align: Literal["none", "moments"] = "none"
    """Scale and shift the moving scan by the masks, before the network."""
    shrink: int = 1
    """Cleaned scans are registered this many times smaller than the frame; masks and losses are the frame's."""
    refinement: MaskRefinement = MaskRefinement()
    """Of the field on the pair's masks, when it registers; training does not know of it."""
    dims: int = 2


def fusion_arguments(network: FusionNetwork) -> dict[str, Any]:
    """Arguments of regkit.models.AttentionFusion, the attention network's own aside."""
    registration = asdict(network)
    options = {name: registration.pop(name) for name in ("mask", "align", "shrink", "refinement", "dims")}
    return options | {"registration": registration}


@dataclass(frozen=True)
class FusionLoss:
    """Weights of the loss's terms."""

    ncc: float = 1.0
    ssim: float = 1.0
    images: Literal["cleaned", "raw"] = "cleaned"
    shape: ShapeWeights = ShapeWeights()

    def __post_init__(self):
        if min(self.ncc, self.ssim) < 0:
            raise UsageError(f"weights of the loss must be at least 0, but are ncc {self.ncc}, ssim {self.ssim}")


@dataclass(frozen=True)
class FusionTraining(SingleStage):
    """Everything that `regkit train attention-fusion` can be told; steps, batch and rate are AC-RegNet's, as the paper names none."""

    network: FusionNetwork = FusionNetwork()
    attention: str | None = None
    """Weights of a trained segmentation-unet."""
    autoencoder: str | None = None
    """Weights of a trained label-autoencoder."""
    loss: FusionLoss = FusionLoss()
    loop: Loop = Loop(batch=32, learning_rate=1e-3)

    @property
    def multiple(self) -> int:
        """Of which the sizes of the network's frame are."""
        return lcm(self.network.shrink * 2 ** (len(self.network.channels) - 1), SegmentationUNet.multiple)


class FusionTask(RegistrationTask):
    """The registration network behind a trained attention network, learning from pairs with label maps."""

    network: AttentionFusion

    def __init__(self, config: FusionTraining, data: Datasets):
        labels, options = labels_of(data, "attention-fusion"), fusion_arguments(config.network)
        attention, mask = None, config.network.mask
        if mask != "none":
            attention, options["attention"] = _attention(config.attention)
        network = build("attention-fusion", options)
        if attention is not None:
            network.attention.load_state_dict(attention)
        super().__init__("attention-fusion", network, options, data, config)
        self.dataset.changes = "given"  # they come after the masks, which are then made once for each scan
        self.shape = ShapeLoss(config.loss.shape, labels, data.train.shape, config.autoencoder)
        self.known: dict[bytes, torch.Tensor] = {}  # cleaned scans and their masks' probabilities, (2, 1, *spatial)
        self.stages = [Stage("registration", config.steps)]

    def trained(self, stage: int) -> Iterable[nn.Parameter]:
        return self.network.registration.parameters()

    def loss(self, batch: dict[str, torch.Tensor], stage: int) -> dict[str, torch.Tensor]:
        weights, cleaned = self.config.loss, self._cleaned(batch)
        scans, maps = [batch[side] for side in SIDES], [batch[f"{side}_labels"] for side in SIDES]
        for at, side in enumerate(SIDES):
            change = batch[f"{side}_change"]
            if bool(change.any()):
                scans[at], image, probability = ops.warp(torch.cat([scans[at], *asdict(cleaned[at]).values()], 1), change).split(1, 1)
                cleaned[at], maps[at] = Cleaned(image, probability), ops.warp_labels(maps[at], change)
        found = self.network.register(*cleaned)
        u = found.displacement
        fixed, moving = [one.image for one in cleaned] if weights.images == "cleaned" else scans
        moved, terms = ops.warp(moving.float(), u, padding="border"), {}
        if weights.ncc:
            terms["ncc"] = weights.ncc * losses.global_ncc_loss(fixed.float(), moved)
        if weights.ssim:
            terms["ssim"] = weights.ssim * losses.ssim_loss(fixed.float(), moved)
        return terms | self.shape.terms(u, *maps, found.field)

    def _cleaned(self, batch: dict[str, torch.Tensor]) -> list[Cleaned]:
        """The fixed and the moving scans as the masks leave them. A fifth of a step goes into masks: those of scans that look the same when
        they come again are kept. Each is made alone, so that it has the same bits whatever else is in the batch: a training that goes on
        from a checkpoint makes them anew."""
        if self.dataset.varies:
            return [self.network.clean(batch[side]) for side in SIDES]
        views = [self.dataset.views(int(n)) for n in batch["index"]]
        for side, name in enumerate(SIDES):
            for row, view in enumerate(views):
                if view[side] not in self.known:
                    made = self.network.clean(batch[name][row : row + 1])
                    self.known[view[side]] = torch.cat([made.image, made.probability])
        found = [Cleaned(*torch.stack([self.known[view[side]] for view in views], 1)) for side in (0, 1)]
        if sum(both.nbytes for both in self.known.values()) > KEPT_BYTES:
            self.known.clear()
        return found


def _attention(source: str | None) -> tuple[dict[str, torch.Tensor], dict]:
    """The weights and the arguments of a trained attention network."""
    if source is None:
        raise UsageError('attention-fusion needs a trained segmentation-unet: set attention to its weights, or network.mask = "none"')
    network, card = load_model(source)
    if not isinstance(network, SegmentationUNet):
        raise InputError(f"{source} is a {card.network}; give the weights of a segmentation-unet")
    return network.state_dict(), dict(card.options)
