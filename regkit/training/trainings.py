"""What `regkit train` can train, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from regkit.data.config import Datasets
from regkit.errors import UsageError
from regkit.registration.progress import Progress
from regkit.training.acregnet import ACRegNetTask, ACRegNetTraining
from regkit.training.attention_fusion import FusionTask, FusionTraining
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
    whole: bool = True
    """Whether `network` holds all that makes the network; else the labels, the frame or another training's weights are needed too."""


TRAININGS = {
    "lapirn": Training(LapIRNTraining, LapIRNTask),
    "conditional-lapirn": Training(ConditionalLapIRNTraining, ConditionalLapIRNTask),
    "voxelmorph": Training(VoxelMorphTraining, VoxelMorphTask),
    "ldgnet": Training(LDGNetTraining, LDGNetTask),
    "feature-network": Training(FeatureTraining, FeatureTask),
    "graphregnet": Training(GraphTraining, GraphTask, prepare_maps),
    "similarity-cnn": Training(SimilarityTraining, SimilarityTask, prepare_patches),
    "attention-fusion": Training(FusionTraining, FusionTask, whole=False),
    "ac-regnet": Training(ACRegNetTraining, ACRegNetTask),
    "segmentation-unet": Training(SegmentationTraining, SegmentationTask, whole=False),
    "label-autoencoder": Training(AutoencoderTraining, AutoencoderTask, whole=False),
}


def training(name: str) -> Training:
    """The training called `name`. Raises UsageError for a name that there is not."""
    if name not in TRAININGS:
        near = get_close_matches(name, TRAININGS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown network {name}; {hint}there are {', '.join(TRAININGS)}")
    return TRAININGS[name]
