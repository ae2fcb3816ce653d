"""What every test shares: what cannot run here is skipped with its reason, which the header says first; and a seeded generator."""

import atexit
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from regkit.cores import usable_cores

# Several workers share the cores, and a thread that waits leaves them to others; torch reads both when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // workers)))

import torch

from regkit.ops.backends import interpreted

# Triton decides when it is imported. Without a GPU its kernels run in its interpreter, on CPU tensors; with one they run there.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# torch.compile's cache on disk is keyed by the forward graph, and so would give back the backward of another version of an op.
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="regkit-tests-")
atexit.register(shutil.rmtree, os.environ["TORCHINDUCTOR_CACHE_DIR"], ignore_errors=True)


def absent(marker: str) -> str | None:
    """Why tests with this marker cannot run here, or None where they can."""
    if marker == "gpu" and not torch.cuda.is_available():
        return f"no GPU that torch {torch.__version__} can use"
    if marker == "data":
        directory = os.environ.get("REGKIT_DATA")
        if not directory:
            return "no real scans: set REGKIT_DATA to their directory"
        if not Path(directory).is_dir():
            return f"no real scans: REGKIT_DATA={directory} is not a directory"
    return None


def pytest_report_header(config: pytest.Config) -> list[str]:
    reasons = {marker: absent(marker) for marker in ("gpu", "data")}
    where = "in Triton's interpreter, on the CPU" if interpreted() else f"on {torch.cuda.get_device_name()}"
    marked = [f"tests marked {marker}: " + (f"will not run: {reason}" if reason else "run") for marker, reason in reasons.items()]
    return [*marked, f"Triton kernels: run {where}" if find_spec("triton") else "Triton kernels: will not run: Triton is not installed"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker in ("gpu", "data"):
        if reason := absent(marker):
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def generator() -> torch.Generator:
    """A random generator of the test's own, seeded."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def data_dir() -> Path:
    """Where the real scans are; for tests marked `data`."""
    return Path(os.environ["REGKIT_DATA"])
