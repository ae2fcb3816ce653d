"""Checkpoints: all of a training's state, written whole or not at all, read without running code from the file.

checkpoints/step-00012000.pt    the newest few
checkpoints/best.pt             the state with the best validation
"""

import errno
import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regkit.errors import InputError, TrainingError
from regkit.geometry import atomic_path

FORMAT = 1
FOLDER, BEST = "checkpoints", "best.pt"


@dataclass
class State:
    """Where a training is. Samples are numbered through, so `step` is the sampler's position too."""

    stage: int = 0
    step: int = 0
    """Steps done in all stages."""
    stage_step: int = 0
    """Steps done in this one."""
    network: dict[str, torch.Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    generators: list[dict[str, Any]] = field(default_factory=list)
    """Of every process."""
    processes: int = 1
    best: float | None = None
    """The best validation so far."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last validation."""


def generators() -> dict[str, Any]:
    """The state of every random generator of this process."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_generators(states: dict[str, Any]) -> None:
    """Puts `generators()` back."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


class Checkpoints:
    """The checkpoints of a run's directory."""

    def __init__(self, run: Path, keep: int):
        self.folder, self.keep = run / FOLDER, keep

    def newest(self) -> Path | None:
        """The last one written."""
        return max(self.folder.glob("step-*.pt"), default=None)

    def save(self, state: State, *, is_best: bool) -> Path:
        """Writes a state, and lets go of those that are too many.

        Raises TrainingError when it cannot be written; what was there before stays.
        """
        path = self.folder / f"step-{state.step:08d}.pt"
        before = self.newest()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(path, state)
            if is_best:
                with atomic_path(self.folder / BEST) as draft:
                    shutil.copyfile(path, draft)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError when the disk is full
            kept = f"{before} is kept" if before else "there was none before"
            raise TrainingError(f"cannot write checkpoint {path}: {reason(error)}; {kept}; make room and go on with --resume") from None
        for old in sorted(self.folder.glob("step-*.pt"))[: -self.keep]:
            old.unlink()
        return path

    def _write(self, path: Path, state: State) -> None:
        with atomic_path(path) as draft:
            torch.save({"regkit": FORMAT, **vars(state)}, draft)
            with open(draft, "rb") as written:  # on the disk before it gets its name: a power cut leaves the one before
                os.fsync(written.fileno())

    def load(self, path: Path) -> State:
        """Raises InputError for a file that is no checkpoint."""
        try:
            values = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises whatever its parsers meet
            raise InputError(f"{path} cannot be read as a checkpoint ({reason(error)}); remove it to go on from the one before") from None
        if not isinstance(values, dict) or values.pop("regkit", None) != FORMAT:
            raise InputError(f"{path} is not a checkpoint of this version of regkit; start the training anew in another directory")
        return State(**values)


def reason(error: Exception) -> str:
    """An error in a few words."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space left on the disk"
    return " ".join(str(error).split())[:200] or type(error).__name__
