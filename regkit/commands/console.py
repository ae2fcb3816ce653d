"""What a command says while it works, on stderr: progress bars on a terminal, plain lines elsewhere, nothing when quiet."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[..., None]
"""`progress(stage, fraction, message="")`: stage is a short name, fraction runs from 0 to 1 within it, message is shown beside it."""


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """A callback for regkit.register's `progress`."""
    if quiet:
        yield lambda stage, fraction, message="": None
    elif sys.stderr.isatty():
        with _bars() as callback:
            yield callback
    else:
        yield PlainLines()


class PlainLines:
    """One line when a stage ends, for logs and pipes."""

    def __init__(self) -> None:
        self.stage: str | None = None
        self.ended: str | None = None
        self.started = time.monotonic()

    def __call__(self, stage: str, fraction: float, message: str = "") -> None:
        if stage == self.ended and fraction >= 1:  # a stage may say so twice: its last step, and its caller
            return
        if stage != self.stage:
            self.stage, self.started = stage, time.monotonic()
        if fraction >= 1:
            note = f": {message}" if message else ""
            print(f"{stage}, {time.monotonic() - self.started:.1f} s{note}", file=sys.stderr, flush=True)
            self.stage, self.ended = None, stage


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", style="bold"),
        BarColumn(bar_width=28),
        TimeElapsedColumn(),
        TextColumn("{task.fields[message]}", style="dim"),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, int] = {}

        def callback(stage: str, fraction: float, message: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0, message="")
            bars.update(tasks[stage], completed=min(fraction, 1.0), **({"message": message} if message else {}))

        yield callback


def say(text: str, quiet: bool = False) -> None:
    """A line on stderr, unless quiet."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)
