"""The benchmarks hold: at a small size the providers of every case agree. With --benchmark-enable, pytest also times regkit's."""

import pytest

from tests.benchmarks import providers
from tests.benchmarks.case import SIZES, Size
from tests.benchmarks.cases import CASES

SMALL = {2: Size((24, 28), batch=2), 3: Size((24, 28, 26))}  # every case fits in, and it is quick
EVERY = [(case, dims) for case in CASES for dims in case.dims]


@pytest.mark.parametrize(("case", "dims"), EVERY, ids=[f"{case.name} {dims}-D" for case, dims in EVERY])
def test_providers_agree(case, dims, benchmark):
    runs, _, failed = providers.checked(case, SMALL[dims], "cpu", wanted=lambda provider: not provider.compiled)
    assert not failed
    assert len(runs) > 1
    benchmark(runs["regkit cpp"])


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)


def test_cases_name_peers_and_sizes_that_exist():
    for case in CASES:
        assert set(case.targets) <= set(case.peers), case.name
        assert any(SIZES[name].dims in case.dims for name in case.sizes), case.name
