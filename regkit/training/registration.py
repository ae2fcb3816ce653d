"""What the trainings of registration networks share: pairs from a manifest, validation on whole scans, the model card."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from regkit import ops
from regkit.data.config import Datasets
from regkit.data.validation import ValidationPair, to_scan_grid
from regkit.geometry import Image
from regkit.metrics import dice, jacobian_summary, tre
from regkit.models.weights import Card
from regkit.registration.provenance import versions
from regkit.training.distributed import World
from regkit.training.pictures import montage
from regkit.training.task import Score, Task


@dataclass(frozen=True)
class About:
    """What the model card says beyond the configuration."""

    name: str = ""
    description: str = ""
    data: str = ""
    """What the network is trained on, with its citation."""
    licence: str = ""
    """Of the weights: what the data's licence allows."""


class RegistrationTask(Task):
    """A network that maps (fixed, moving) to a displacement, learning from pairs of scans.

    Validation pairs are scored as regkit eval scores a registration: Dice (nearest neighbour) on the fixed label map's own grid, landmark
    error in mm, SDlogJ and folds of the whole transform on that grid (without labels, on the network's frame).
    """

    def __init__(self, kind: str, network: nn.Module, options: Mapping[str, Any], data: Datasets, config: Any):
        self.kind, self.network, self.options, self.config = kind, network, dict(options), config
        self.dataset, self.validation = data.train, data.validation
        self.labels = data.train.labels
        if self.validation is not None:
            first = self.validation.pairs[0]  # by its rows: the pair itself would be read, and perhaps registered, for this alone
            if all(case.label for case in first):
                self.best = ("dice", True)
            elif all(case.landmarks for case in first):
                self.best = ("tre_mm", False)

    def displacement(self, fixed: torch.Tensor, moving: torch.Tensor, stage: int) -> torch.Tensor:
        """(1, D, *spatial) on the frame, as far as the network is trained at this stage."""
        return self.network(fixed, moving)

    def validate(self, stage: int, world: World, device: torch.device) -> Score:
        """Means (and the standard deviation of Dice) over the validation pairs."""
        if self.validation is None:
            return Score({})
        found, pictures = [], {}
        for n in range(world.rank, len(self.validation), world.size):
            pair = self.validation[n]
            fixed, moving = pair.fixed.to(device), pair.moving.to(device)
            started = time.perf_counter()
            u = self.displacement(fixed, moving, stage)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            found.append({"seconds": time.perf_counter() - started, **measure(pair, u)})
            if n == 0:
                pictures = {"validation": montage(fixed, moving, ops.warp(moving, u, padding="border"), u)}
        found = sum(world.gather(found), [])
        return Score(summary(found), pictures if world.leads else {})

    def card(self, metrics: dict[str, float]) -> Card:
        """The card of the network as it is: configuration, data, licence, validation."""
        return card_of(self.kind, self.options, self.config, metrics)


def card_of(kind: str, options: Mapping[str, Any], config: Any, metrics: Mapping[str, float]) -> Card:
    """The model card of a network that `config` (a training's configuration) trained."""
    return Card(
        network=kind,
        options=dict(options),
        input=config.data.input,
        **asdict(config.about),
        training=asdict(config),
        metrics={name: round(value, 6) for name, value in metrics.items()},
        versions=versions(),
    )


def measure(pair: ValidationPair, u: torch.Tensor) -> dict[str, float]:
    """The scores of a displacement (1, D, *frame) on a pair's own scans: dice (mean over the fixed map's labels), tre_mm, sdlogj, folds."""
    u, scores = u.float().cpu(), {}
    if pair.fixed_labels is not None:
        whole = pair.scan_displacement(u)
        moved = Image(warp_labels(pair.moving_labels, whole), pair.fixed_labels.grid)
        scores["dice"] = float(np.mean(list(dice(pair.fixed_labels, moved).values())))
    else:
        whole = to_scan_grid(u, pair.frame, pair.frame, pair.frame, pair.affine)
    if pair.fixed_points is not None:
        mapped = pair.transform(u).apply(pair.fixed_points.coordinates)
        scores["tre_mm"] = float(tre(mapped, pair.moving_points).mean())
    volume = jacobian_summary(whole)
    return scores | {name: volume[name] for name in ("sdlogj", "sdlogj_learn2reg", "folds")}


def warp_labels(labels: Image, u: torch.Tensor) -> np.ndarray:
    """A label map pulled by a displacement that counts in its voxels: nearest neighbour, 0 outside, as `regkit.geometry.resample` does."""
    source = torch.from_numpy(np.ascontiguousarray(labels.data))[None, None]
    return ops.warp_labels(source, u, padding="extent")[0, 0].numpy()


def summary(found: list[dict[str, float]]) -> dict[str, float]:
    """Means over the pairs, the standard deviation (population) of Dice, and the number of pairs; what no pair has is left out."""
    names = [name for name in found[0] if any(np.isfinite(score[name]) for score in found)]
    means = {name: float(np.nanmean([score[name] for score in found])) for name in names}
    spread = {"dice_std": float(np.nanstd([score["dice"] for score in found]))} if "dice" in means else {}
    return means | spread | {"pairs": len(found)}
