"""What `regkit train` can train, by name."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from torch import nn

from regkit.data.config import Datasets
from regkit.errors import UsageError
from regkit.models.networks import build
from regkit.registration.progress import Progress
from regkit.training.acregnet import ACRegNetTask, ACRegNetTraining
from regkit.training.attention_fusion import FusionTask, FusionTraining, fusion_arguments
from regkit.training.conditional_lapirn import ConditionalLapIRNTask, ConditionalLapIRNTraining
from regkit.training.feature_network import FeatureTask, FeatureTraining
from regkit.training.graphregnet import GraphTask, GraphTraining
from regkit.training.graphregnet import prepare as prepare_maps
from regkit.training.label_autoencoder import AutoencoderTask, AutoencoderTraining
from regkit.training.lapirn import LapIRNTask, LapIRNTraining
from regkit.training.ldgnet import LDGNetTask, LDGNetTraining
from regkit.training.segmentation import SegmentationTask, SegmentationTraining
from regkit.training.similarity_cnn import SimilarityTask, SimilarityTraining
from regkit.training.similarity_cnn import prepare as prepare_patches
from regkit.training.task import Task
from regkit.training.voxelmorph import VoxelMorphTask, VoxelMorphTraining


@dataclass(frozen=True)
class Training:
    """A network's configuration, and the task that it makes of data."""

    config: Callable[[], Any]
    task: Callable[..., Task]
    prepare: Callable[[Any, Datasets, Progress], None] | None = None
    """What takes its time and is kept beside the prepared scans; done before the task is made."""
    arguments: Callable[[Any], dict[str, Any]] = asdict
    """The network's arguments, of the configuration's `network`; those that follow from the data (classes, sizes) are not among them."""


TRAININGS = {
    "lapirn": Training(LapIRNTraining, LapIRNTask),
    "conditional-lapirn": Training(ConditionalLapIRNTraining, ConditionalLapIRNTask),
    "voxelmorph": Training(VoxelMorphTraining, VoxelMorphTask),
    "ldgnet": Training(LDGNetTraining, LDGNetTask),
    "feature-network": Training(FeatureTraining, FeatureTask),
    "graphregnet": Training(GraphTraining, GraphTask, prepare_maps),
    "similarity-cnn": Training(SimilarityTraining, SimilarityTask, prepare_patches),
    "attention-fusion": Training(FusionTraining, FusionTask, arguments=fusion_arguments),
    "ac-regnet": Training(ACRegNetTraining, ACRegNetTask),
    "segmentation-unet": Training(SegmentationTraining, SegmentationTask),
    "label-autoencoder": Training(AutoencoderTraining, AutoencoderTask),
}


def training(name: str) -> Training:
    """The training called `name`. Raises UsageError for a name that there is not."""
    if name not in TRAININGS:
        near = get_close_matches(name, TRAININGS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown network {name}; {hint}there are {', '.join(TRAININGS)}")
    return TRAININGS[name]


def network_of(name: str, config: Any) -> nn.Module:
    """The untrained network of a training's configuration; what follows from the data has the network's defaults.

    Raises UsageError for options that the network refuses.
    """
    return build(name, training(name).arguments(config.network))
