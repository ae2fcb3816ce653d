"""What the displacement embedding compares of two scans: MIND-SSC, or the features of a network that has learned to predict it."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from regkit import ops
from regkit.errors import InputError, UsageError
from regkit.registration.config import EmbeddingStage
from regkit.registration.provenance import sha256

if TYPE_CHECKING:
    from regkit.models.feature_network import FeatureNetwork

MIND, LEARNED = "mind", "learned"
SHIPPED = "mind-features"  # the model that is meant by LEARNED


def descriptors(stage: EmbeddingStage, dims: int, device: torch.device | str) -> Callable[[torch.Tensor], torch.Tensor]:
    """What maps an image (1, 1, *n) to features (1, C, *(n // stride)), float16, a voxel's channels side by side.

    Raises UsageError for a network that there is not, that gives no features, or of another stride or number of axes than asked for; the
    mapping InputError where features are no numbers.
    """
    layout = torch.channels_last_3d if dims == 3 else torch.channels_last
    if stage.features == MIND:
        options = {"radius": stage.mind_radius, "dilation": stage.mind_dilation, "pool": stage.stride}
        return lambda image: ops.mind_ssc(image, **options, dtype=torch.float16, channels_last=True)
    path = _weights(stage)
    network = _network(path, path.stat().st_mtime_ns, str(device))
    if stage.stride != network.stride:
        raise UsageError(f"embedding.features {stage.features}: they lie at every {network.stride} voxels; set embedding.stride to that")
    if dims != network.dims:
        raise UsageError(f"embedding.features {stage.features} are of {network.dims}-D scans, and these are {dims}-D; take {MIND}")

    def learned(image: torch.Tensor) -> torch.Tensor:
        with torch.autocast(image.device.type, enabled=False):
            found = network(image.float()).to(torch.float16, memory_format=layout)
        if not bool(found.isfinite().all()):
            raise InputError(
                f"embedding.features {stage.features}: a feature is NaN or infinite for these scans; its weights cannot be used"
            )
        return found

    return learned


def sharpness(stage: EmbeddingStage) -> float:
    """Of the soft-min over their dissimilarities, where the configuration leaves it open."""
    if stage.sharpness is not None:
        return stage.sharpness
    return 20.0 if stage.features == MIND else 60.0


def identity(stage: EmbeddingStage) -> str:
    """Says which features they are: two stages with the same have the same."""
    return MIND if stage.features == MIND else sha256(_weights(stage))


def provenance(stage: EmbeddingStage) -> dict[str, Any] | None:
    """Of learned features where the weights came from, for the record of a registration; None for MIND. Raises as `descriptors` does."""
    from regkit.models.weights import about, load_card

    if stage.features == MIND:
        return None
    path = _weights(stage)
    return about(path, load_card(path))


def _weights(stage: EmbeddingStage) -> Path:
    from regkit.models.weights import find  # here: the networks' inputs are prepared by this package

    return find(SHIPPED if stage.features == LEARNED else stage.features)


@lru_cache(maxsize=4)
def _network(path: Path, changed: int, device: str) -> "FeatureNetwork":
    """changed: when the file was last written, so that one that has changed is read again."""
    from regkit.models.feature_network import FeatureNetwork
    from regkit.models.weights import load_model

    network, card = load_model(path)
    if not isinstance(network, FeatureNetwork):
        raise UsageError(f"embedding.features: {path} is a {card.network}, not a feature-network; give such weights, {LEARNED} or {MIND}")
    return network.requires_grad_(False).to(device)
