"""Time, copy bandwidth and memory of a run."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from tests.benchmarks.case import Run

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def seconds(run: Run, device: str = "cpu") -> float:
    """How long one run takes. On a GPU the L2 cache is emptied first; launches queue up behind that, which hides Python's time."""
    if device == "cpu":
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    flush = torch.empty(64 << 20, device=device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    flush.zero_()
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def interleaved(runs: dict[str, Run], device: str, budget: float, rounds: int) -> dict[str, list[float]]:
    """Times of each run, taken in turns so that a busy moment hits all alike; about `budget` seconds each, one round at least."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        waiting = [name for name in runs if not times[name] or sum(times[name]) + min(times[name]) <= budget]
        for name in waiting:
            times[name].append(seconds(runs[name], device))
    return times


def copy_bandwidth(device: str, rounds: int = 10) -> float:
    """Bytes a second of a large copy, read and write counted; the best of some rounds."""
    source = torch.ones((64 if device == "cpu" else 256) << 20, device=device)
    target = torch.empty_like(source)
    run = lambda: (target.copy_(source),)  # noqa: E731
    run()
    return 2 * source.nbytes / min(seconds(run, device) for _ in range(rounds))


def extra_bytes(warm_up: Run, run: Run, device: str) -> int | None:
    """Peak memory of a run beyond what was there before it, its outputs included. None where the system does not tell.

    On Linux this is the process's resident high-water mark, which counts every allocation, torch's and the kernels' own; it needs a process
    of its own (see in_process). On a GPU it is what torch's allocator handed out.
    """
    if device != "cpu":
        run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not _CLEAR.exists():
        return None
    warm_up()  # on a small input: threads, code and tables are there
    _CLEAR.write_text("5")  # the high-water mark starts again from the present
    before = _resident("VmHWM")
    run()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def in_process(case: str, provider: str, data: str, device: str, threads: int) -> int | None:
    """extra_bytes of a provider in a fresh process, where freed memory goes back to the system at once and so cannot hide an allocation."""
    arguments = ["--memory-of", case, provider, "--data", data, "--device", device, "--threads", str(threads)]
    keep_nothing = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *arguments], env={**os.environ, **keep_nothing}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"memory of {provider} in {case}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])
