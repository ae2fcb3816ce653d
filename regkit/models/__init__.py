"""Networks, one file each. Of most, `network(fixed, moving)` gives the displacement in voxels; GraphRegNet takes similarity maps of
keypoints; others help them train and see: a segmentation, and an auto-encoder of label maps."""

from regkit.models.acregnet import ACRegNet
from regkit.models.attention_fusion import AttentionFusion
from regkit.models.conditional_lapirn import ConditionalLapIRN
from regkit.models.dense_fusion import DenseFusion
from regkit.models.feature_network import FeatureNetwork
from regkit.models.graphregnet import GraphRegNet
from regkit.models.label_autoencoder import LabelAutoencoder
from regkit.models.lapirn import LapIRN
from regkit.models.ldgnet import LDGNet
from regkit.models.segmentation_unet import SegmentationUNet
from regkit.models.similarity_cnn import SimilarityCNN
from regkit.models.similarity_registration import SimilarityRegistration
from regkit.models.voxelmorph import VoxelMorph

__all__ = [
    "ACRegNet",
    "AttentionFusion",
    "ConditionalLapIRN",
    "DenseFusion",
    "FeatureNetwork",
    "GraphRegNet",
    "LDGNet",
    "LabelAutoencoder",
    "LapIRN",
    "SegmentationUNet",
    "SimilarityCNN",
    "SimilarityRegistration",
    "VoxelMorph",
]
