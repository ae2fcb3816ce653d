"""The benchmarks hold: at a small size the providers of every case agree. With --benchmark-enable, pytest also times regkit's."""

import pytest

from tests.benchmarks.__main__ import checked_runs
from tests.benchmarks.case import REGKIT
from tests.benchmarks.cases import CASES, built, small_size

EVERY = [(case, dims) for case in CASES for dims in case.dims]


@pytest.mark.parametrize(("case", "dims"), EVERY, ids=[f"{case.name} {dims}-D" for case, dims in EVERY])
def test_providers_agree(case, dims, benchmark):
    if not built(case):
        pytest.skip(f"regkit.ops.{case.op} is not built yet")
    runs = checked_runs(case, small_size(dims), "cpu")
    benchmark(runs[REGKIT])


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)
