"""A bare GPU machine has torch and little else: what cannot be imported there is left out, and the header says so."""

from importlib.util import find_spec

import pytest

collect_ignore = [] if find_spec("scipy") else ["test_register_on_gpu.py"]


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"tests/gpu: {name} will not run: scipy is not installed" for name in collect_ignore]
