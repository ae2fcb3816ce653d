"""The benchmarks hold: at a small size the providers of every case agree. With --benchmark-enable, pytest also times regkit's."""

from dataclasses import replace

import pytest

from tests.benchmarks import providers
from tests.benchmarks.case import SIZES, Size
from tests.benchmarks.cases import CASES

SMALL = {2: Size((24, 28), batch=2), 3: Size((24, 28, 26))}  # every case fits in, and it is quick
EVERY = [(case, dims) for case in CASES for dims in case.dims]


def uncompiled(provider: providers.Provider) -> str | None:
    return "compiling takes too long" if provider.compiled else None


@pytest.mark.parametrize(("case", "dims"), EVERY, ids=[f"{case.name} {dims}-D" for case, dims in EVERY])
def test_providers_agree(case, dims, benchmark):
    checked = providers.checked(case, SMALL[dims], "cpu", skip=uncompiled)
    assert not checked.failed
    assert len(checked.runs) > 1
    benchmark(checked.runs["regkit cpp"])


def test_peers_for_gpus_agree_where_torch_alone_computes_them():
    """They run on the CPU too, only too slowly to be timed there."""
    for case in CASES:
        for name, peer in case.peers.items():
            if peer.devices == ("cuda",) and not peer.needs:
                on_cpu = replace(case, peers={name: replace(peer, devices=("cpu",))})
                checked = providers.checked(on_cpu, SMALL[case.dims[0]], "cpu", skip=uncompiled)
                assert not checked.failed and name in checked.runs


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)


def test_cases_name_peers_and_sizes_that_exist():
    for case in CASES:
        assert set(case.targets) <= set(case.peers), case.name
        assert any(SIZES[name].dims in case.dims for name in case.sizes), case.name
