"""`make bench`: every op beside its peers in one run, checked before it is timed. Prints a table an op, writes results/<machine>.json."""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tests.benchmarks import machine, measure, providers
from tests.benchmarks.case import IMAGES, SIZES, OpCase, Size
from tests.benchmarks.cases import CASES

RESULTS = Path(__file__).parent / "results"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="cases whose name contains TEXT; may be repeated")
    parser.add_argument("--data", default="brain", help=f"image sizes by data set, with commas: {', '.join(SIZES)}; or all")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: torch's)")
    parser.add_argument("--rounds", type=int, default=20, help="most rounds of timing")
    parser.add_argument("--budget", type=float, default=10, metavar="SECONDS", help="most timing a provider; one round at least")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile of the peers")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory (a process of its own for each provider)")
    parser.add_argument("--dry", action="store_true", help="print only; do not write the result file")
    parser.add_argument("--memory-of", nargs=2, metavar=("CASE", "PROVIDER"), help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(case: OpCase, data: str, options: argparse.Namespace, bandwidth: float) -> dict:
    """Figures of one case on one image size: per provider seconds, its ratio to regkit's, rates, memory."""
    size = SIZES[data]
    runs, absent, failed = providers.checked(case, size, options.device, lambda provider: not (provider.compiled and options.no_compile))
    times = measure.interleaved(runs, options.device, options.budget, options.rounds)
    ours = min((min(taken) for name, taken in times.items() if name.startswith("regkit")), default=math.nan)
    figures = {}
    for name, taken in times.items():
        best = min(taken)
        extra = None if options.no_memory else memory(case, name, data, runs, options)
        figures[name] = {
            "seconds": best,
            "median": sorted(taken)[len(taken) // 2],
            "rounds": len(taken),
            "slower_than_regkit": best / ours,
            "gigabytes_per_second": case.bytes_moved(size) / best / 1e9,
            "share_of_copy": case.bytes_moved(size) / best / bandwidth,
            "gigaflops": case.flops(size) / best / 1e9,
            "extra_bytes": extra,
            "extra_volumes": None if extra is None else extra / case.volume_bytes(size),
            "target": case.targets.get(name),
        }
    shape = {"batch": size.batch, "channels": size.channels, "spatial": size.spatial}
    found = {"providers": figures, "absent": absent, "failed": failed}
    return {
        "data": data,
        "size": shape,
        "dtype": str(case.dtype).removeprefix("torch."),
        "memory_target_volumes": case.memory_target,
        **found,
    }


def memory(case: OpCase, provider: str, data: str, runs: dict, options: argparse.Namespace) -> int | None:
    if options.device != "cpu":
        return measure.extra_bytes(runs[provider], runs[provider], options.device)
    return measure.in_process(case.name, provider, data, options.device, options.threads)


def show(console: Console, case: OpCase, figures: dict) -> None:
    table = Table(
        title=f"{case.name}   {figures['data']} {SIZES[figures['data']]}, {figures['dtype']}", title_justify="left", title_style="bold"
    )
    for heading in ("", "time ms", "median", "rounds", "regkit is faster by", "GB/s", "of copy", "GFLOP/s", "extra memory"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, f in figures["providers"].items():
        ratio = (
            "" if name.startswith("regkit") else f"{f['slower_than_regkit']:.1f}x" + (f" (target {f['target']:g}x)" if f["target"] else "")
        )
        volumes = "" if f["extra_bytes"] is None else f"{f['extra_bytes'] / 1e6:.0f} MB, {f['extra_volumes']:.2f} volumes"
        if name.startswith("regkit") and volumes and figures["memory_target_volumes"]:
            volumes += f" (target {figures['memory_target_volumes']:g})"
        rates = (f"{f['gigabytes_per_second']:.2f}", f"{f['share_of_copy']:.1%}", f"{f['gigaflops']:.1f}")
        table.add_row(name, f"{1e3 * f['seconds']:.1f}", f"{1e3 * f['median']:.1f}", str(f["rounds"]), ratio, *rates, volumes)
    console.print(table)
    for name, reason in (figures["absent"] | figures["failed"]).items():
        console.print(f"{name}: {'FAILED' if name in figures['failed'] else 'not run'}: {reason}", highlight=False, markup=False)
    console.print()


def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        name, provider_name = options.memory_of
        case = next(case for case in CASES if case.name == name)
        size = SIZES[options.data]
        provider = providers.of(case, size, options.device)[0][provider_name]
        small = Size((24, 28, 26)[: size.dims], size.batch, size.channels)
        print(json.dumps(measure.extra_bytes(*(provider.run(case, s, options.device) for s in (small, size)), options.device)))
        return 0

    chosen = [case for case in CASES if not options.only or any(text in case.name for text in options.only)]
    sizes = list(IMAGES) if options.data == "all" else options.data.split(",")
    unknown = [data for data in sizes if data not in SIZES]
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
        for data in sizes:
            if data in case.sizes and SIZES[data].dims in case.dims:
                figures = measured(case, data, options, bandwidth)
                results.append({"case": case.name, **figures})
                show(console, case, figures)
    if not options.dry:
        write(results, described, bandwidth)
    return int(any(result["failed"] for result in results))


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
