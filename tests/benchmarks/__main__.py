"""`make bench`: every op beside its peers in one run, checked before it is timed. Prints a table an op, writes results/<machine>.json."""

import argparse
import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tests.benchmarks import machine, measure
from tests.benchmarks.case import REGKIT, OpCase, Run
from tests.benchmarks.cases import CASES, SIZES, built, small_size, volume_bytes

RESULTS = Path(__file__).parent / "results"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="cases whose name contains TEXT; may be repeated")
    parser.add_argument("--data", default=next(iter(SIZES)), help=f"image sizes by data set, with commas: {', '.join(SIZES)}")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: torch's)")
    parser.add_argument("--rounds", type=int, default=20, help="most rounds of timing")
    parser.add_argument("--budget", type=float, default=10, metavar="SECONDS", help="most timing a provider; one round at least")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory (a process of its own for each provider)")
    parser.add_argument("--dry", action="store_true", help="print only; do not write the result file")
    parser.add_argument("--memory-of", nargs=2, metavar=("CASE", "PROVIDER"), help=argparse.SUPPRESS)
    return parser.parse_args()


def checked_runs(case: OpCase, size: tuple[int, ...], device: str) -> dict[str, Run]:
    """The runs of all providers, after one run each whose outputs agree; raises AssertionError where they do not."""
    runs = {name: case.run_of(name, size, device) for name in case.providers}
    ours = runs[REGKIT]()
    if REGKIT in case.comparable:
        ours = case.comparable[REGKIT](ours)
    for name in runs:
        if name != REGKIT:
            difference = case.difference(name, runs[name](), ours)
            assert difference <= case.tolerance, f"{case.name}: {name} and regkit differ by {difference:.1e} (at most {case.tolerance:.0e})"
    return runs


def measured(case: OpCase, data: str, options: argparse.Namespace, bandwidth: float) -> dict:
    """Figures of one case on one image size: per provider seconds, its ratio to regkit's, rates, memory."""
    size = SIZES[data]
    moved, flops = (case.units(size) * per_unit for per_unit in (case.bytes_per_unit, case.flops_per_unit))
    times = measure.interleaved(checked_runs(case, size, options.device), options.device, options.budget, options.rounds)
    providers = {}
    for name, taken in times.items():
        best = min(taken)
        extra = None if options.no_memory else memory(case, name, data, options)
        providers[name] = {
            "seconds": best,
            "median": sorted(taken)[len(taken) // 2],
            "rounds": len(taken),
            "slower_than_regkit": best / min(times[REGKIT]),
            "gigabytes_per_second": moved / best / 1e9,
            "share_of_copy": moved / best / bandwidth,
            "gigaflops": flops / best / 1e9,
            "extra_bytes": extra,
            "extra_volumes": None if extra is None else extra / volume_bytes(case, size),
            "target": case.targets.get(name),
        }
    return {"data": data, "size": size, "unit": case.unit, "memory_target_volumes": case.memory_target, "providers": providers}


def memory(case: OpCase, provider: str, data: str, options: argparse.Namespace) -> int | None:
    if options.device != "cpu":
        run = case.run_of(provider, SIZES[data], options.device)
        return measure.extra_bytes(run, run, options.device)
    return measure.in_process(case.name, provider, data, options.device, options.threads)


def show(console: Console, case: OpCase, figures: dict) -> None:
    size = "x".join(map(str, figures["size"]))
    table = Table(title=f"{case.name}   {figures['data']} {size}", title_justify="left", title_style="bold")
    for heading in ("", "time ms", "median", "rounds", "regkit is faster by", "GB/s", "of copy", "GFLOP/s", "extra memory"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, f in figures["providers"].items():
        ratio = "" if name == REGKIT else f"{f['slower_than_regkit']:.1f}x" + (f" (target {f['target']:g}x)" if f["target"] else "")
        volumes = "" if f["extra_bytes"] is None else f"{f['extra_volumes']:.2f} volumes"
        if name == REGKIT and volumes and figures["memory_target_volumes"]:
            volumes += f" (target {figures['memory_target_volumes']:g})"
        rates = (f"{f['gigabytes_per_second']:.2f}", f"{f['share_of_copy']:.1%}", f"{f['gigaflops']:.1f}")
        table.add_row(name, f"{1e3 * f['seconds']:.1f}", f"{1e3 * f['median']:.1f}", str(f["rounds"]), ratio, *rates, volumes)
    console.print(table)


def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        name, provider = options.memory_of
        case = next(case for case in CASES if case.name == name)
        size = SIZES[options.data]
        runs = [case.run_of(provider, s, options.device) for s in (small_size(len(size)), size)]
        print(json.dumps(measure.extra_bytes(*runs, options.device)))
        return 0

    chosen = [case for case in CASES if not options.only or any(text in case.name for text in options.only)]
    unknown = [data for data in options.data.split(",") if data not in SIZES]
    if unknown or not chosen:
        wrong = f"no size is named {unknown[0]!r}; there are {', '.join(SIZES)}" if unknown else "--only matches no case"
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    described = machine.description(options.device)
    console = Console(width=None if sys.stdout.isatty() else 140)
    where = described["gpu"] or f"{described['cpu']}, {described['threads']} threads, {described['instruction_set']}"
    installed = ", ".join(f"{name} {version}" for name, version in described["versions"].items() if version)
    console.print(f"{where}; Python {described['python']}; {installed}", highlight=False)
    bandwidth = measure.copy_bandwidth(options.device)
    console.print(f"copy: {bandwidth / 1e9:.1f} GB/s (read and write)\n", highlight=False)

    results = []
    for case in chosen:
        if not built(case):
            console.print(f"{case.name}: regkit.ops.{case.op} is not built yet\n", highlight=False)
            continue
        for data in options.data.split(","):
            if len(SIZES[data]) in case.dims:
                figures = measured(case, data, options, bandwidth)
                results.append({"case": case.name, **figures})
                show(console, case, figures)
    if not options.dry:
        write(results, described, bandwidth)
    return 0


def write(results: list[dict], described: dict, bandwidth: float) -> None:
    """Merges into the machine's file: cases measured now replace their older figures, others stay, each with its own date and versions."""
    path = RESULTS / machine.file_name(described)
    kept = json.loads(path.read_text())["results"] if path.exists() else []
    fresh = {(r["case"], r["data"]) for r in results}
    stamped = [{**r, "measured_on": {**described, "copy_bytes_per_second": bandwidth}} for r in results]
    merged = [r for r in kept if (r["case"], r["data"]) not in fresh] + stamped
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"results": sorted(merged, key=lambda r: (r["case"], r["data"]))}, indent=1) + "\n")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    sys.exit(main())
