"""Peak memory of a run beyond what was there before it: temporaries, what is saved for the backward pass, and the outputs.

On a GPU it is what torch's allocator handed out. On the CPU it is the high-water mark of a fresh process's resident memory, which counts
every allocation, torch's and the kernels' own: `python -m tests.benchmarks.memory CASE PROVIDER DATA THREADS` is that process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.benchmarks import providers
from tests.benchmarks.case import SIZES, Run, Size
from tests.benchmarks.cases import CASES

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Freed memory goes back to the system at once, and so cannot hide an allocation.
KEEP_NOTHING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def on_gpu(run: Run) -> int:
    """Bytes; the run must have been warmed up."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def on_cpu(case: str, provider: str, data: str, threads: int) -> int | None:
    """Bytes; None where the system (other than Linux) does not tell."""
    if not CLEAR.exists():
        return None
    return from_process("tests.benchmarks.memory", case, provider, data, str(threads))


def from_process(module: str, *arguments: str) -> int:
    """The number that a fresh process prints last: `python -m module arguments`."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env={**os.environ, **KEEP_NOTHING}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring its memory failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_this_process(name: str, provider_name: str, data: str) -> int:
    case = next(case for case in CASES if case.name == name)
    size = SIZES[data]
    provider = providers.of(case, size, "cpu")[0][provider_name]
    run = provider.run(case, case.make(size), "cpu")
    if provider.compiled:
        run()  # what is compiled is compiled for this size
    else:  # a small input warms up threads, code and tables
        provider.run(case, case.make(Size((24, 28, 26)[: size.dims], size.batch, size.channels)), "cpu")()
    return beyond(run)


def beyond(run: Run) -> int:
    """Bytes that a run takes in this process beyond what is there before it."""
    CLEAR.write_text("5")  # the high-water mark starts again from the present
    before = resident()
    run()
    return resident() - before


def resident() -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[4]))
    print(json.dumps(in_this_process(*sys.argv[1:4])))
