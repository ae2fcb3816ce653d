"""What every test shares: what cannot run here is skipped with its reason, which the header says first; and a seeded generator."""

import os
from pathlib import Path

import pytest
import torch


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
    return [f"tests marked {marker}: " + (f"will not run: {reason}" if reason else "run") for marker, reason in reasons.items()]


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
