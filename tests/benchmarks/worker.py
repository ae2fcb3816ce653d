"""Measures cases in a process of its own.

A kernel that reads a wrong address leaves the GPU useless to its process, one that hangs or crashes ends it. So the caller is told which
provider runs; when the process breaks down the caller starts another one, and measures the case again without that provider.
"""

import math
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module

import torch

from tests.benchmarks import measure, memory, providers
from tests.benchmarks.case import SIZES, OpCase

BANDWIDTH = "copy bandwidth"
START = 300  # seconds that a process may take to start; imports are slow on a busy machine


@dataclass(frozen=True)
class Options:
    device: str
    threads: int
    rounds: int
    budget: float  # seconds of timing for each provider
    memory: bool
    compile: bool
    patience: float  # seconds that a provider may be silent
    registry: str = "tests.benchmarks.cases"  # the module with CASES


@dataclass(frozen=True)
class Request:
    case: str
    data: str
    skip: dict[str, str] = field(default_factory=dict)  # provider -> why


def figures(case: OpCase, data: str, options: Options, without: dict[str, str], at: Callable[[str], None]) -> dict:
    """Time and memory of every provider of a case on one image size; who is absent and who failed."""
    size = SIZES[data]

    def skip(provider: providers.Provider) -> str | None:
        return without.get(provider.name) or ("left out" if provider.compiled and not options.compile else None)

    checked = providers.checked(case, size, options.device, skip, at)
    checked.absent |= {name: why for name, why in without.items() if name in checked.absent}  # rather than that it is not installed
    times = measure.interleaved(checked.runs, options.device, options.budget, options.rounds, at)
    found = {}
    for name, t in times.items():
        at(name)
        extra = None
        if options.memory:
            run = checked.runs[name]
            extra = memory.on_gpu(run) if options.device != "cpu" else memory.on_cpu(case.name, name, data, options.threads)
        found[name] = {
            "seconds": min(t.taken),
            "median": sorted(t.taken)[len(t.taken) // 2],
            "launch": sorted(t.launch)[len(t.launch) // 2] if options.device != "cpu" else None,
            "rounds": len(t.taken),
            "extra_bytes": extra,
        }
    ours = min((f["seconds"] for name, f in found.items() if name.startswith("regkit ")), default=math.nan)
    for f in found.values():
        f["slower_than_regkit"] = None if math.isnan(ours) else f["seconds"] / ours
    return {"providers": found, "absent": checked.absent, "failed": checked.failed}


def serve(pipe, options: Options) -> None:
    """The worker's process: answers requests until the pipe closes."""
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # peers' convolutions keep float32: TF32's 10 bits drown small variances
    cases = {case.name: case for case in import_module(options.registry).CASES}
    pipe.send(("ready", None))
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            if request == BANDWIDTH:
                pipe.send(("done", measure.copy_bandwidth(options.device)))
                continue
            pipe.send(("done", figures(cases[request.case], request.data, options, request.skip, lambda name: pipe.send(("at", name)))))
        except Exception as error:
            pipe.send(("broken", providers.one_line(error)))
            return


class Worker:
    """Starts a process when there is none, and asks it."""

    def __init__(self, options: Options):
        self.options = options
        self.process = None

    def ask(self, request: Request | str) -> tuple[object, str, str]:
        """-> (answer, "", ""), or (None, the provider that ran last, what happened)."""
        if self.process is None:
            self.start()
        self.pipe.send(request)
        last = ""
        while True:
            kind, content = self.heard(self.options.patience)
            if kind == "done":
                return content, "", ""
            if kind == "broken":
                self.stop()
                return None, last, content
            last = content

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.options))
        self.process.start()
        theirs.close()
        kind, content = self.heard(START)
        if kind != "ready":
            raise RuntimeError(f"the measuring process did not start: {content}")

    def heard(self, patience: float) -> tuple[str, object]:
        """The next message: ready, at, done or broken."""
        if not self.pipe.poll(patience):
            return "broken", f"no result after {patience:g} seconds"
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            return "broken", f"its process ended with code {self.process.exitcode}"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = None

    def measured(self, case: OpCase, data: str, skip: dict[str, str]) -> dict:
        """The figures of a case; providers that broke the process are among the failed."""
        broke: dict[str, str] = {}
        while True:
            answer, last, what = self.ask(Request(case.name, data, skip | broke))
            if answer is not None:
                answer["failed"] |= broke
                answer["absent"] = {name: reason for name, reason in answer["absent"].items() if name not in broke}
                return answer
            if not last or last in broke:  # nothing to leave out: the case itself is at fault
                return {"providers": {}, "absent": {}, "failed": broke | {last or "the case": what}}
            broke[last] = what
