"""Data to register and to learn from."""

from regkit.data.augment import AffineAugmentation
from regkit.data.config import DataConfig, Datasets, datasets
from regkit.data.elastic import ElasticAugmentation
from regkit.data.intensity import IntensityAugmentation
from regkit.data.manifest import Case, Manifest, Pairs, read_manifest, write_manifest
from regkit.data.pairs import PairDataset, common_shape
from regkit.data.random_field import smooth_random_displacement
from regkit.data.scans import PreparedCase, PreparedScans
from regkit.data.thorax import Phantom, phantom
from regkit.data.validation import ValidationPair, ValidationPairs, to_scan_grid

__all__ = [
    "AffineAugmentation",
    "Case",
    "DataConfig",
    "Datasets",
    "ElasticAugmentation",
    "IntensityAugmentation",
    "Manifest",
    "PairDataset",
    "Pairs",
    "Phantom",
    "PreparedCase",
    "PreparedScans",
    "ValidationPair",
    "ValidationPairs",
    "common_shape",
    "datasets",
    "phantom",
    "read_manifest",
    "smooth_random_displacement",
    "to_scan_grid",
    "write_manifest",
]
