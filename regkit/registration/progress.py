"""How the pipeline tells where it is: `progress(stage, fraction, message="")`, fraction from 0 to 1 within the stage."""

from collections.abc import Callable

Progress = Callable[..., None]


def silent(stage: str, fraction: float, message: str = "") -> None:
    """Says nothing."""
