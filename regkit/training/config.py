"""How a training runs, whatever is trained."""

from dataclasses import dataclass
from typing import Literal

from regkit.errors import UsageError


@dataclass(frozen=True)
class Loop:
    """The engine's options; what is trained on what has its own."""

    seed: int = 0
    """Of the weights, the pairs and the augmentation."""
    deterministic: bool = False
    """Take torch's deterministic algorithms only: the same machine and number of threads give the same weights, bit for bit."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Of the network's layers (autocast); weights, fields and losses are float32. auto: bfloat16 where the processor computes in it (GPUs;
    CPUs with AVX-512 BF16 or AMX, where a step takes half the time; others emulate it in ten times the time), else float32."""
    batch: int = 1
    """Samples that a process takes at once."""
    accumulate: int = 1
    """Batches a step of the optimiser."""
    learning_rate: float = 1e-4
    """Of Adam."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Within each stage: as it is, or falling to a hundredth along half a cosine."""
    clip: float | None = None
    """Largest norm of the gradient."""
    workers: int = 0
    """Processes that prepare samples ahead; 0 prepares them between the steps."""
    validate_every: int = 1000
    save_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 2
    """Newest checkpoints kept; the best is kept besides."""
    log_every: int = 50

    def __post_init__(self):
        for name in ("batch", "accumulate", "validate_every", "save_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, but is {getattr(self, name)}")
        if self.learning_rate <= 0 or self.workers < 0 or (self.clip is not None and self.clip <= 0):
            raise UsageError(
                f"learning_rate and clip must be above 0 and workers at least 0, but are {self.learning_rate}, {self.clip}, {self.workers}"
            )
