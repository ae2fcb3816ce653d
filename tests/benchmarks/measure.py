"""Time and copy bandwidth.

On a GPU, events time the device alone: a pause is queued first, so that all launches wait behind it and Python's own time does not show
as gaps (it is reported beside, as launch time); and the L2 cache is overwritten, for in use the data rarely is there.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from tests.benchmarks.case import Run

WARM_UPS = {"cpu": 0, "cuda": 3}  # beyond the run that was checked; on a GPU clocks rise and the allocator finds its blocks
LONGEST_PAUSE = 0.02


@dataclass
class Times:
    """Seconds of each round: of the computation, and of Python until everything is launched (the same on a CPU)."""

    taken: list[float]
    launch: list[float]


def once(run: Run, device: str, pause: float = 0.0) -> tuple[float, float]:
    """Seconds of one run -> (computing, launching)."""
    if device == "cpu":
        begin = time.perf_counter()
        run()
        taken = time.perf_counter() - begin
        return taken, taken
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    flushing(device).zero_()
    torch.cuda._sleep(int(pause * cycles_per_second()))
    start.record()
    begin = time.perf_counter()
    run()
    launched = time.perf_counter() - begin
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3, launched


@cache
def flushing(device: str) -> torch.Tensor:
    """A buffer several times as large as the L2 cache; writing it leaves nothing else there."""
    cache_bytes = torch.cuda.get_device_properties(device).L2_cache_size
    return torch.empty(max(4 * cache_bytes, 128 << 20), dtype=torch.int8, device=device)


@cache
def cycles_per_second() -> float:
    """Of the counter that torch.cuda._sleep waits for."""
    cycles = 20_000_000
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(2):  # the first wakes the device up
        start.record()
        torch.cuda._sleep(cycles)
        end.record()
        end.synchronize()
    return cycles / (start.elapsed_time(end) / 1e3)


def interleaved(
    runs: dict[str, Run], device: str, budget: float, rounds: int, at: Callable[[str], None] = lambda name: None
) -> dict[str, Times]:
    """Times of each run, taken in turns so that a busy moment hits all alike; about `budget` seconds each.

    Three rounds at least, so that the best of them is not chance, but one where a run alone takes longer than the budget. `at` hears the
    name of what runs next.
    """
    times: dict[str, Times] = {}
    pauses: dict[str, float] = {}
    for name, run in runs.items():
        at(name)
        launches = [once(run, device)[1] for _ in range(WARM_UPS[device])]
        pauses[name] = min(2 * launches[-1], LONGEST_PAUSE) if launches else 0.0
        times[name] = Times([], [])
    for _ in range(rounds):
        for name, run in runs.items():
            taken = times[name].taken
            few = len(taken) < 3 and min(taken, default=0.0) <= budget
            if few or sum(taken) + min(taken) <= budget:
                at(name)
                computing, launching = once(run, device, pauses[name])
                taken.append(computing)
                times[name].launch.append(launching)
    return times


def copy_bandwidth(device: str, rounds: int = 10) -> float:
    """Bytes a second of a large copy, read and write counted; the best of some rounds."""
    source = torch.ones((64 if device == "cpu" else 256) << 20, device=device)
    target = torch.empty_like(source)
    run = lambda: (target.copy_(source),)  # noqa: E731
    run()
    return 2 * source.nbytes / min(once(run, device, 1e-4)[0] for _ in range(rounds))
