"""How a manifest's scans become training and validation pairs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from regkit.data.augment import AffineAugmentation
from regkit.data.elastic import ElasticAugmentation
from regkit.data.intensity import IntensityAugmentation
from regkit.data.manifest import Manifest
from regkit.data.pairs import PairDataset, common_shape
from regkit.data.scans import PreparedScans
from regkit.data.validation import ValidationPairs
from regkit.errors import InputError, UsageError
from regkit.models.input import NetworkInput
from regkit.registration.progress import Progress, silent


@dataclass(frozen=True)
class DataConfig:
    """What is drawn from a manifest."""

    input: NetworkInput = field(default_factory=NetworkInput)
    """What the network is given of two scans."""
    pairs: Literal["all", "random"] = "all"
    """Every ordered pair once an epoch, or each sample a pair at random."""
    augmentation: AffineAugmentation = field(default_factory=AffineAugmentation)
    """Random affine of a training scan; probability = 0.0 for none."""
    jointly: bool = False
    """Whether both scans of a pair get the same one."""
    mirror: tuple[int, ...] = ()
    """Array axes along which a training pair is turned round, each with probability 1/2; where left and right, say, are alike."""
    elastic: ElasticAugmentation = field(default_factory=ElasticAugmentation)
    """Random deformation of a training scan; none by default."""
    intensity: IntensityAugmentation = field(default_factory=IntensityAugmentation)
    """Random change of a training scan's grey values; none by default."""
    label_scale: int = 1
    """2: label maps on a grid twice as fine as the network's, on the same box."""
    validation_pairs: int | None = None
    """Of all ordered pairs of the validation scans so many, drawn once; by default all."""
    cache_mb: float = 16384.0
    """Prepared scans that one process keeps mapped."""

    def __post_init__(self):
        if self.label_scale < 1 or self.cache_mb <= 0:
            raise UsageError(f"label_scale must be at least 1 and cache_mb above 0, but they are {self.label_scale} and {self.cache_mb}")
        if self.validation_pairs is not None and self.validation_pairs < 1:
            raise UsageError(f'validation_pairs must be at least 1 (or "none", for all), but is {self.validation_pairs}')


class Datasets(NamedTuple):
    """Pairs to learn from and pairs to validate on; the latter None where the manifest has no validation scans."""

    train: PairDataset
    validation: ValidationPairs | None


def datasets(
    manifest: Manifest,
    config: DataConfig,
    *,
    multiple: int,
    seed: int = 0,
    samples: int | None = None,
    cache_dir: str | Path,
    progress: Progress = silent,
) -> Datasets:
    """Training and validation pairs of a manifest, its scans prepared (which takes its time at first, then comes from `cache_dir`).

    multiple: the network's. samples: what `len` of the training pairs says; by default an epoch.

    Raises InputError for scans that can't be used and where no two can be paired, UsageError for options that do not fit them.
    """
    train, validation = manifest.split("train"), manifest.split("validation")
    if not train:
        raise InputError(f"{manifest.path or 'the manifest'}: no scan is in the split train; it needs at least two")
    scans = PreparedScans(train + validation, config.input, cache_dir, label_scale=config.label_scale, limit_mb=config.cache_mb)
    scans.fill(progress)
    shape = common_shape(scans, train, config.input, multiple)
    learned = PairDataset(
        scans,
        train,
        shape,
        multiple=multiple,
        mode=config.pairs,
        augmentation=config.augmentation,
        jointly=config.jointly,
        mirror=config.mirror,
        elastic=config.elastic,
        intensity=config.intensity,
        seed=seed,
        samples=samples,
    )
    # A network that sees whole scans sees each validation pair in a frame of its own, as it will when it is used.
    kept = ValidationPairs(scans, validation, config.input, multiple=multiple, limit=config.validation_pairs) if validation else None
    return Datasets(learned, kept)
