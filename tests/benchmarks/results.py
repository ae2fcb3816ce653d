"""The results file of a machine: tests/benchmarks/results/<machine>.json.

A list of entries, one for each case and image size: what was computed (op, size, dtype), the figures of every provider, who was absent
and who failed, and on what it was measured (machine, versions, date, copy bandwidth), for entries may be measured on different days.
"""

import json
from pathlib import Path

from tests.benchmarks import machine
from tests.benchmarks.case import SIZES, OpCase
from tests.benchmarks.cases import CASES

DIRECTORY = Path(__file__).parent / "results"


def is_regkit(provider: str) -> bool:
    return provider.startswith("regkit ")


def entry(case: OpCase, data: str, measured: dict, bandwidth: float, described: dict) -> dict:
    """`measured` is worker.figures' answer; rates and targets are added to it."""
    size = SIZES[data]
    for name, f in measured["providers"].items():
        f |= {
            "gigabytes_per_second": case.bytes_moved(size) / f["seconds"] / 1e9,
            "share_of_copy": case.bytes_moved(size) / f["seconds"] / bandwidth,
            "gigaflops": case.flops(size) / f["seconds"] / 1e9,
            "extra_volumes": None if f["extra_bytes"] is None else f["extra_bytes"] / case.volume_bytes(size),
            "target": case.targets.get(name) if described["device"] == "cpu" else None,
        }
    return {
        "case": case.name,
        "op": case.op,
        "data": data,
        "size": {"batch": size.batch, "channels": size.channels, "spatial": size.spatial},
        "dtype": str(case.dtype).removeprefix("torch."),
        "memory_target_volumes": case.memory_target,
        **measured,
        "measured_on": {**described, "copy_bytes_per_second": bandwidth},
    }


def read(path: Path) -> list[dict]:
    return json.loads(path.read_text())["results"] if path.exists() else []


def write(entries: list[dict], described: dict, directory: Path) -> Path:
    """Merges into the machine's file: what was measured now replaces its older figures; what left the registry goes; the rest stays."""
    path = directory / machine.file_name(described)
    fresh, known = {(e["case"], e["data"]) for e in entries}, {case.name for case in CASES}
    merged = [e for e in read(path) if (e["case"], e["data"]) not in fresh and e["case"] in known] + entries
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"results": sorted(merged, key=lambda e: (e["case"], e["data"]))}, indent=1) + "\n")
    return path
