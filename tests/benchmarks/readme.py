"""README's tables of benchmark results, made from the results files: `python -m tests.benchmarks --readme` rewrites them."""

from pathlib import Path

from tests.benchmarks.case import SIZES
from tests.benchmarks.cases import CASES
from tests.benchmarks.results import is_regkit, read

README = Path(__file__).parents[2] / "README.md"
ORDER = {case.name: place for place, case in enumerate(CASES)}
BEGIN = "<!-- benchmarks: written by `python -m tests.benchmarks --readme` from tests/benchmarks/results -->"
END = "<!-- benchmarks: end -->"


def rewrite(directory: Path) -> int:
    before, _, after = parts(README.read_text())
    README.write_text(before + tables(directory) + after)
    print(f"written to {README}")
    return 0


def parts(text: str) -> tuple[str, str, str]:
    """README before, between and after the two markers."""
    before, begin, rest = text.partition(BEGIN + "\n")
    between, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README} lacks the lines {BEGIN} and {END}")
    return before + begin, between, end + after


def tables(directory: Path) -> str:
    """One table for each machine and image size."""
    text = ""
    for path in sorted(directory.glob("*.json")):
        entries = read(path)
        for data in SIZES:
            of_size = sorted((e for e in entries if e["data"] == data), key=lambda e: ORDER.get(e["case"], len(ORDER)))
            if of_size:
                text += heading(of_size, data) + table(of_size)
    return text + "\n"


def heading(entries: list[dict], data: str) -> str:
    on = [e["measured_on"] for e in entries]
    where = on[0]["gpu"] or f"{on[0]['cpu']}, {on[0]['threads']} threads"
    dates = sorted({m["date"][:10] for m in on})
    copies = sorted(m["copy_bytes_per_second"] / 1e9 for m in on)
    copied = f"{copies[0]:.0f}" if copies[0] > 0.97 * copies[-1] else f"{copies[0]:.0f} to {copies[-1]:.0f}"
    torch = " and ".join(sorted({m["versions"]["torch"] for m in on}))
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"\n{where}: {data}, {SIZES[data]} voxels; {days}, torch {torch}, copies move {copied} GB/s:\n\n"


def table(entries: list[dict]) -> str:
    lines = ["| op | ms | of copy | memory beyond the inputs, MB | regkit is faster than |", "|---|---|---|---|---|"]
    for e in entries:
        ours = {name: f for name, f in e["providers"].items() if is_regkit(name)}
        peers = {name: f for name, f in e["providers"].items() if not is_regkit(name)}
        if not ours:
            continue
        best = min(ours.values(), key=lambda f: f["seconds"])
        times = figure(best["seconds"])
        if len(ours) > 1:
            times = ", ".join(f"{name.removeprefix('regkit ')} {figure(f['seconds'])}" for name, f in ours.items())
        memory = "" if best["extra_bytes"] is None else f"{best['extra_bytes'] / 1e6:.0f}"
        others = ", ".join(f"{name} {f['slower_than_regkit']:.1f}x" for name, f in sorted(peers.items(), key=lambda p: p[1]["seconds"]))
        lines.append(f"| {e['case']} | {times} | {best['share_of_copy']:.0%} | {memory} | {others} |")
    return "\n".join(lines) + "\n"


def figure(seconds: float) -> str:
    """Milliseconds with two digits or more."""
    ms = 1e3 * seconds
    return f"{ms:.0f}" if ms >= 10 else f"{ms:.2g}"
