"""What every training can be told that has one stage, beside its own network and loss."""

from dataclasses import dataclass, field

from regkit.data.augment import AffineAugmentation
from regkit.data.config import DataConfig
from regkit.errors import UsageError
from regkit.training.config import Loop
from regkit.training.registration import About


@dataclass(frozen=True)
class SingleStage:
    """The base of such trainings' configurations, which add `network` and `loss` and have defaults of their own."""

    steps: int = 18_000
    data: DataConfig = field(default_factory=DataConfig)
    loop: Loop = Loop()
    about: About = About()

    def __post_init__(self):
        if self.steps < 1:
            raise UsageError(f"steps must be at least 1, but is {self.steps}")


def unchanged_data() -> DataConfig:
    """Scans as they are: for trainings on what is found of each pair once and kept."""
    return DataConfig(augmentation=AffineAugmentation(probability=0.0))


def check_unchanged(name: str, data: DataConfig) -> None:
    """Raises UsageError unless scans stay as they are."""
    if data.mirror or any(change.probability > 0 for change in (data.augmentation, data.elastic, data.intensity)):
        raise UsageError(
            f"{name} learns from scans as they are: data.mirror must be empty and the probability of data.augmentation, elastic and "
            "intensity 0"
        )
