"""Training: one loop for all networks, with stages, mixed precision, several processes, checkpoints and logs."""

from regkit.training.config import Loop
from regkit.training.loop import seed_everything, train
from regkit.training.task import Score, Stage, Task

__all__ = ["Loop", "Score", "Stage", "Task", "seed_everything", "train"]
