"""What every training can be told that has one stage, beside its own network and loss."""

from dataclasses import dataclass, field

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
