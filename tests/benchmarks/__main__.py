"""`make bench`: every op beside its peers in one run, checked before it is timed. Prints a table a case, writes results/<machine>.json."""

import argparse
import sys
import time
from pathlib import Path

import torch
from rich.console import Console

from tests.benchmarks import defaults, machine, readme, results, table, worker
from tests.benchmarks.case import IMAGES, SIZES
from tests.benchmarks.cases import CASES
from tests.benchmarks.peers import source


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="cases whose name contains TEXT; may be repeated")
    sizes = f"image sizes by data set, with commas: {', '.join(SIZES)}; or all (of {', '.join(IMAGES)})"
    parser.add_argument("--data", default="brain", help=sizes)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: torch's)")
    parser.add_argument("--rounds", type=int, help="most rounds of timing (default: 20, on a GPU 50)")
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="most timing a provider (default: 5, on a GPU 0.5); one round at least"
    )
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="start no case later; the last half is without torch.compile")
    parser.add_argument(
        "--peer-source", nargs="+", action="extend", default=[], metavar="NAME=DIR",
        help=f"compile and time a peer from a checkout of it, on a GPU: {', '.join(source.SOURCES)}; takes minutes",
    )  # fmt: skip
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile of the peers")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory (on the CPU a process of its own a provider)")
    parser.add_argument("--dry", action="store_true", help="print only; do not write the results file")
    parser.add_argument("--results", type=Path, default=results.DIRECTORY, metavar="DIR", help="where results files are")
    parser.add_argument("--readme", action="store_true", help="measure nothing; rewrite README's tables from the results files")
    parser.add_argument(
        "--defaults", type=Path, metavar="FILE", help="measure nothing; write regkit/ops/gpu_default.py from a results file"
    )
    return parser.parse_args()


def main() -> int:
    options = arguments()
    try:
        if options.readme:
            return readme.rewrite(options.results)
        if options.defaults:
            return defaults.write(options.defaults)
        work, sources = selected(options), source.parsed(options.peer_source)
        if sources and options.device == "cpu":
            raise ValueError("--peer-source is for --device cuda: these peers are CUDA kernels")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    gpu = options.device != "cpu"
    if gpu and not torch.cuda.is_available():
        print(f"error: torch {torch.__version__} sees no GPU", file=sys.stderr)
        return 2

    begin = time.monotonic()
    with source.built(sources) as not_built:
        return measure(options, work, begin, sources, not_built)


def measure(options: argparse.Namespace, work: list[tuple], begin: float, sources: dict[str, Path], not_built: dict[str, str]) -> int:
    """Times the cases, prints and writes what was found. sources: peers that came as such; not_built: those that failed, and why."""
    gpu = options.device != "cpu"
    torch.set_num_threads(options.threads)
    described = machine.description(options.device)
    described["versions"] |= {name: source.SOURCES[name].version(where) for name, where in sources.items() if name not in not_built}
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(machine.line(described), highlight=False)
    for name, why in not_built.items():
        console.print(f"{name}: not measured: {why}", highlight=False, markup=False)
    measuring = worker.Worker(
        worker.Options(
            device=options.device,
            threads=options.threads,
            rounds=options.rounds or (50 if gpu else 20),
            budget=options.budget or (0.5 if gpu else 5),
            memory=not options.no_memory,
            compile=not options.no_compile,
            patience=120 if gpu else 1800,
        )
    )
    try:
        bandwidth, _, what = measuring.ask(worker.BANDWIDTH)
        if bandwidth is None:
            print(f"error: a copy could not be timed: {what}", file=sys.stderr)
            return 1
        console.print(f"copy: {bandwidth / 1e9:.1f} GB/s (read and write)\n", highlight=False)
        entries, late = [], []
        for case, data in work:
            used = (time.monotonic() - begin) / options.limit if options.limit else 0
            if used > 1:
                late.append(f"{case.name} ({data})")
                continue
            skip = source.not_measured(case.peers, not_built) | (compiled_peers(case) if used > 0.5 else {})
            measured = measuring.measured(case, data, skip)
            entries.append(results.entry(case, data, measured, bandwidth, described))
            table.show(console, entries[-1])
            if not options.dry:
                path = results.write(entries, described, options.results)
    finally:
        measuring.stop()
    table.summary(console, entries)
    failures = [f"{e['case']} ({e['data']}): {name}: {why}" for e in entries for name, why in e["failed"].items()]
    for line in [f"FAILED: {f}" for f in failures] + [f"not measured, after {options.limit:g} seconds: {name}" for name in late]:
        console.print(line, highlight=False, markup=False)
    console.print(f"{len(entries)} cases in {time.monotonic() - begin:.0f} s", highlight=False)
    if entries and not options.dry:
        console.print(f"written to {path}; --readme shows it in README", highlight=False)
    return int(bool(failures or late))


def selected(options: argparse.Namespace) -> list[tuple]:
    """The pairs (case, name of a size) to measure; raises ValueError for what is not there."""
    sizes = list(IMAGES) if options.data == "all" else options.data.split(",")
    if unknown := [data for data in sizes if data not in SIZES]:
        raise ValueError(f"no size is named {unknown[0]!r}; there are {', '.join(SIZES)}, and all")
    cases = [case for case in CASES if not options.only or any(text in case.name for text in options.only)]
    pairs = [(case, data) for data in sizes for case in cases if data in case.sizes and SIZES[data].dims in case.dims]
    if not pairs:
        raise ValueError(f"no case has {' or '.join(map(repr, options.only)) or 'a name'} in its name and runs on {options.data}")
    return pairs


def compiled_peers(case) -> dict[str, str]:
    """For Request.skip: the providers that torch.compile makes, left out late in a run with a limit, for each takes many seconds."""
    return {f"torch.compile({name})": "left out, for time runs short" for name, peer in case.peers.items() if peer.compile}


if __name__ == "__main__":
    sys.exit(main())
