"""What `make bench` prints: a table for each case and image size, and a line for each provider that is not in it."""

from rich.console import Console
from rich.table import Table

from tests.benchmarks.case import SIZES
from tests.benchmarks.results import is_regkit

HEADINGS = ("", "time ms", "median", "rounds", "regkit is faster by", "GB/s", "of copy", "GFLOP/s", "extra memory")


def show(console: Console, entry: dict) -> None:
    """Prints one entry of the results."""
    on_gpu = entry["measured_on"]["device"] != "cpu"
    table = Table(
        title=f"{entry['case']}   {entry['data']} {SIZES[entry['data']]}, {entry['dtype']}", title_justify="left", title_style="bold"
    )
    for heading in (*HEADINGS, *(["launch ms"] if on_gpu else [])):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, f in entry["providers"].items():
        row = [name, number(1e3 * f["seconds"]), number(1e3 * f["median"]), str(f["rounds"]), ratio(entry, name)]
        row += [number(f["gigabytes_per_second"]), f"{f['share_of_copy']:.1%}", number(f["gigaflops"]), extra(entry, name)]
        table.add_row(*row, *([number(1e3 * f["launch"])] if on_gpu else []))
    if entry["providers"]:
        console.print(table)
    else:
        console.print(f"[bold]{entry['case']}   {entry['data']}[/bold]: no figures", highlight=False)
    for kind, why in (("absent", "not measured"), ("failed", "FAILED")):
        for name, reason in entry[kind].items():
            console.print(f"{name}: {why}: {reason}", highlight=False, markup=False)
    console.print()


def summary(console: Console, entries: list[dict]) -> None:
    """A line for each entry: regkit's fastest backend and the best peer."""
    table = Table(title="Summary", title_justify="left", title_style="bold")
    for heading in ("", "data", "regkit", "time ms", "of copy", "MB", "regkit is faster by", "than the best peer"):
        table.add_column(heading, justify="right" if heading in ("time ms", "of copy", "MB", "regkit is faster by") else "left")
    for e in entries:
        ours = sorted((f["seconds"], name) for name, f in e["providers"].items() if is_regkit(name))
        peers = sorted((f["seconds"], name) for name, f in e["providers"].items() if not is_regkit(name))
        if not ours:
            table.add_row(e["case"], e["data"], "FAILED" if e["failed"] else "not there")
            continue
        seconds, name = ours[0]
        f = e["providers"][name]
        memory = "" if f["extra_bytes"] is None else f"{f['extra_bytes'] / 1e6:.0f}"
        row = [e["case"], e["data"], name.removeprefix("regkit "), number(1e3 * seconds), f"{f['share_of_copy']:.1%}", memory]
        table.add_row(*row, *((f"{peers[0][0] / seconds:.1f}x", peers[0][1]) if peers else ()))
    console.print(table)


def number(x: float) -> str:
    """With three digits or more."""
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def ratio(entry: dict, name: str) -> str:
    """Of a peer, to the fastest of regkit's backends; of each of these, to the best peer."""
    f = entry["providers"][name]
    if is_regkit(name):
        peers = [p["seconds"] for peer, p in entry["providers"].items() if not is_regkit(peer)]
        return f"{min(peers) / f['seconds']:.1f}x (best peer)" if peers else ""
    if f["slower_than_regkit"] is None:
        return ""
    return f"{f['slower_than_regkit']:.1f}x" + (f" (target {f['target']:g}x)" if f["target"] else "")


def extra(entry: dict, name: str) -> str:
    """Memory beyond the inputs."""
    f = entry["providers"][name]
    if f["extra_bytes"] is None:
        return ""
    target = entry["memory_target_volumes"] if is_regkit(name) else None
    return f"{f['extra_bytes'] / 1e6:.0f} MB, {f['extra_volumes']:.2f} volumes" + (f" (target {target:g})" if target else "")
