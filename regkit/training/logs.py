"""What a training tells: log.jsonl (a line an event), TensorBoard, and lines or a bar on the terminal."""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from regkit.geometry import atomic_path
from regkit.training.run import LOG


class Log:
    """log.jsonl and TensorBoard of a run's directory; continues from `step`, as if what came after it had not been written."""

    def __init__(self, run: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.path = run / LOG
        self._cut(step)
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def _cut(self, step: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except json.JSONDecodeError:  # the line that a kill cut short
                continue
        with atomic_path(self.path) as draft:
            draft.write_text("".join(kept), encoding="utf-8")

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """An event with its numbers."""
        line = {"event": kind, "step": step, **{k: _plain(v) for k, v in values.items()}}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self.board.add_scalar(f"{kind}/{name}", value, step)

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Images (H, W) or (H, W, 3), 0..1."""
        for name, picture in pictures.items():
            self.board.add_image(name, picture, step, dataformats="HW" if picture.ndim == 2 else "HWC")

    def close(self) -> None:
        self.board.close()


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Telling:
    """Where the training is, on stderr: a bar with the time left on a terminal, a line every half a minute elsewhere."""

    EVERY = 30.0  # seconds

    def __init__(self, total: int, done: int, quiet: bool):
        self.quiet, self.total, self.bars = quiet, total, None
        self.told, self.started, self.first = 0.0, time.monotonic(), done
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self.bars = Progress(
                TextColumn("{task.description}", style="bold"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeElapsedColumn(),
                TimeRemainingColumn(), TextColumn("{task.fields[message]}", style="dim"), console=Console(stderr=True),
            )  # fmt: skip
            self.task = self.bars.add_task("train", total=total, completed=done, message="")
            self.bars.start()

    def step(self, stage: str, done: int, message: str) -> None:
        """A step is over."""
        if self.bars is not None:
            self.bars.update(self.task, description=stage, completed=done, message=message)
        elif not self.quiet and time.monotonic() - self.told > self.EVERY:
            self.told = time.monotonic()
            left = (self.total - done) * (self.told - self.started) / max(1, done - self.first)
            print(f"{stage}, step {done} of {self.total}, {left / 60:.0f} min left: {message}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.quiet:
            return
        if self.bars is not None:
            self.bars.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bars is not None:
            self.bars.stop()


def numbers(values: dict[str, float]) -> str:
    """name value, name value, .."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def processes() -> dict[str, Any]:
    """What a log's first event says of the machine."""
    import torch

    return {"pid": os.getpid(), "torch": torch.__version__, "threads": torch.get_num_threads()}
