"""The benchmarks hold: at a small size every provider of every case agrees with regkit. `pytest tests/benchmarks --benchmark-enable` also times them."""

import pytest

from tests.benchmarks.__main__ import checked_runs
from tests.benchmarks.case import REGKIT
from tests.benchmarks.cases import CASES, built, small_size

BUILT = [(case, dims) for case in CASES if built(case) for dims in case.dims]


@pytest.mark.parametrize(("case", "dims"), BUILT, ids=[f"{case.name} {dims}-D" for case, dims in BUILT])
def test_providers_agree(case, dims, benchmark):
    runs = checked_runs(case, small_size(dims), "cpu")
    benchmark(runs[REGKIT])


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)
