"""The table of the faster GPU backend of each op, regkit/ops/gpu_default.py, from a results file: `--defaults FILE`."""

import math
from pathlib import Path

from regkit import ops
from regkit.ops import backends
from tests.benchmarks.results import is_regkit, read

TABLE = Path(__file__).parents[2] / "regkit" / "ops" / "gpu_default.py"
ROOT = TABLE.parents[2]


def write(path: Path, table: Path = TABLE) -> int:
    entries = read(path)
    if not entries:
        raise ValueError(f"{path} is not a results file, or an empty one")
    if any(e["measured_on"]["device"] == "cpu" for e in entries):
        raise ValueError(f"{path} was measured on a CPU")
    chosen = {}
    for op in sorted({e["op"] for e in entries}):
        name = faster([e for e in entries if e["op"] == op])
        if name:
            chosen |= {registered: name for registered in belonging_to(op)}
    cited = path.resolve().relative_to(ROOT) if path.resolve().is_relative_to(ROOT) else path
    table.write_text(source(chosen, f"{cited} ({entries[0]['measured_on']['gpu']}, {entries[0]['measured_on']['date'][:10]})"))
    print(f"{len(chosen)} ops with more than one backend measured; written to {table}")
    return 0


def faster(entries: list[dict]) -> str | None:
    """The backend with the smallest geometric mean of times over the cases that all measured backends share; None for fewer than two."""
    times = [{name: f["seconds"] for name, f in e["providers"].items() if is_regkit(name)} for e in entries]
    names = set.intersection(*map(set, times))
    if len(names) < 2:
        return None
    best = min(sorted(names), key=lambda name: math.prod(t[name] / min(t.values()) for t in times))
    return best.removeprefix("regkit ")


def belonging_to(op: str) -> list[str]:
    """The registered ops of a public one: warp, warp_backward, warp_nearest, but not warp_labels, which is public itself."""
    owner = {
        name: max((public for public in ops.__all__ if name == public or name.startswith(f"{public}_")), key=len, default=None)
        for name in backends.registered()
    }
    return sorted(name for name in owner if owner[name] == op)


def source(chosen: dict[str, str], measured: str) -> str:
    """gpu_default.py's text: its docstring, and the table."""
    head = TABLE.read_text().partition("MEASURED = ")[0]
    entries = "".join(f'    "{op}": "{name}",\n' for op, name in sorted(chosen.items()))
    table = "{\n" + entries + "}" if entries else "{}"
    return f'{head}MEASURED = "{measured}"  # the results file behind the table\nFASTER: dict[str, str] = {table}\n'
