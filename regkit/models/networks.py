"""The networks by name, for configurations, model cards and the command line.

Most take a fixed and a moving image and give the displacement. One that takes anything else says what by an attribute `reads`:
"similarities" of keypoints, from which a network registers too, within the displacement embedding; an image or labels, from which it
does not.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from torch import nn

from regkit.errors import UsageError
from regkit.models.acregnet import ACRegNet
from regkit.models.attention_fusion import AttentionFusion
from regkit.models.conditional_lapirn import ConditionalLapIRN
from regkit.models.feature_network import FeatureNetwork
from regkit.models.graphregnet import GraphRegNet
from regkit.models.label_autoencoder import LabelAutoencoder
from regkit.models.lapirn import LapIRN
from regkit.models.ldgnet import LDGNet
from regkit.models.segmentation_unet import SegmentationUNet
from regkit.models.similarity_registration import SimilarityRegistration
from regkit.models.voxelmorph import VoxelMorph

PAIR, SIMILARITIES = ("fixed", "moving"), ("similarities",)
NETWORKS: dict[str, type[nn.Module]] = {
    "lapirn": LapIRN,
    "conditional-lapirn": ConditionalLapIRN,
    "voxelmorph": VoxelMorph,
    "ldgnet": LDGNet,
    "feature-network": FeatureNetwork,
    "graphregnet": GraphRegNet,
    "similarity-cnn": SimilarityRegistration,
    "attention-fusion": AttentionFusion,
    "ac-regnet": ACRegNet,
    "segmentation-unet": SegmentationUNet,
    "label-autoencoder": LabelAutoencoder,
}


def build(name: str, options: Mapping[str, Any]) -> nn.Module:
    """The network called `name`, made with `options`. Raises UsageError for a name or an option that there is not."""
    if name not in NETWORKS:
        near = get_close_matches(name, NETWORKS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown network {name}; {hint}there are {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name](**options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"network {name}: {error}") from None


def reads(network: nn.Module | type[nn.Module]) -> tuple[str, ...]:
    """What a network takes: ("fixed", "moving"), ("similarities",), ("image",) or ("labels",)."""
    return getattr(network, "reads", PAIR)


def registering() -> list[str]:
    """The names of the networks that register."""
    return [name for name, network in NETWORKS.items() if reads(network) in (PAIR, SIMILARITIES)]
