"""The learning rate at a step of a stage."""

import math

from regkit.training.config import Loop

LOWEST = 0.01  # of the learning rate, at the end of the cosine


def learning_rate(options: Loop, step: int, steps: int) -> float:
    """Of step `step` (from 0) out of `steps`."""
    if options.schedule == "constant":
        return options.learning_rate
    return options.learning_rate * (LOWEST + (1 - LOWEST) * 0.5 * (1 + math.cos(math.pi * step / steps)))
