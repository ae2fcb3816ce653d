"""What a result was measured on: machine, versions, threads, date."""

import importlib.metadata
import platform
import re
from datetime import datetime
from pathlib import Path

import torch

import regkit

PACKAGES = ("torch", "triton", "numpy", "monai", "fused_lncc", "fireants")


def processor() -> str:
    """The CPU's name."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """Of what a result depends on; None for what is not installed."""
    found = {"regkit": regkit.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def description(device: str) -> dict:
    from regkit.ops import native

    return {
        "cpu": processor(),
        "gpu": torch.cuda.get_device_name() if device != "cpu" else None,
        "device": device,
        "gpu_runtime": (torch.version.cuda or torch.version.hip) if device != "cpu" else None,
        "instruction_set": native.extension().instruction_set if device == "cpu" else None,
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def line(described: dict) -> str:
    """The same in a line."""
    where = described["gpu"] or f"{described['cpu']}, {described['threads']} threads, {described['instruction_set']}"
    installed = ", ".join(f"{name} {version}" for name, version in described["versions"].items() if version)
    return f"{where}; Python {described['python']}; {installed}"


def file_name(described: dict) -> str:
    """A name for the result file of a machine: its processor, and how many threads a CPU used."""
    name = described["gpu"] or f"{described['cpu']} {described['threads']} threads"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".json"
