"""The runner: what fails is told and does not hide the rest; results files; README's tables and the GPU backends that follow from them."""

import json
from pathlib import Path

import pytest

from tests.benchmarks import defaults, measure, memory, providers, readme, results, worker
from tests.benchmarks.case import SIZES, Size
from tests.benchmarks.cases import CASES
from tests.benchmarks.failing import CASES as FAILING

MACHINE = {"gpu": None, "cpu": "Some CPU", "device": "cpu", "threads": 2, "date": "2026-01-02T03:04:05", "versions": {"torch": "2.9"}}


def test_failures_are_told_and_do_not_hide_the_rest():
    options = worker.Options("cpu", 1, rounds=2, budget=1, memory=False, compile=False, patience=10, registry="tests.benchmarks.failing")
    measuring = worker.Worker(options)
    try:
        found = measuring.measured(FAILING[0], "x-ray", {"needs another": "compiling it failed"})
    finally:
        measuring.stop()
    assert list(found["providers"]) == ["regkit cpp", "right"]
    assert all(f["seconds"] > 0 and f["rounds"] >= 1 for f in found["providers"].values())
    assert found["absent"] == {
        "needs a package": "no_such_package is not installed",
        "needs another": "compiling it failed",
        "for GPUs": "does not run on cpu",
    }
    assert list(found["failed"]) == ["wrong", "not a number", "fails", "crashes", "hangs"]
    assert "differs from regkit cpp by" in found["failed"]["wrong"] and "by inf" in found["failed"]["not a number"]
    assert found["failed"]["fails"] == "ValueError: no such luck"
    assert found["failed"]["crashes"] == "its process ended with code -6"
    assert found["failed"]["hangs"] == "no result after 10 seconds"


def test_slow_providers_get_fewer_rounds():
    sleep = measure.time.sleep
    runs = {"slower": lambda: sleep(0.15), "slow": lambda: sleep(0.06), "fast": lambda: ()}
    times = measure.interleaved(runs, "cpu", budget=0.1, rounds=5)
    assert {name: len(t.taken) for name, t in times.items()} == {"slower": 1, "slow": 3, "fast": 5}


@pytest.mark.gpu
def test_measures_on_a_gpu():
    case = next(case for case in CASES if case.name == "warp forward+backward (displacement)")
    size = Size((48, 64, 48))
    checked = providers.checked(case, size, "cuda", skip=lambda provider: "takes long" if provider.compiled else None)
    assert not checked.failed and any(name.startswith("regkit") for name in checked.runs)
    times = measure.interleaved(checked.runs, "cuda", budget=0.1, rounds=3)
    assert all(0 < seconds < 0.1 for t in times.values() for seconds in t.taken)
    gradient = 3 * 4 * size.voxels
    assert all(memory.on_gpu(run) >= gradient for run in checked.runs.values())
    assert 1e10 < measure.copy_bandwidth("cuda") < 1e14


def figures(seconds: float) -> dict:
    return {"seconds": seconds, "median": seconds, "launch": None, "rounds": 3, "extra_bytes": 27_500_000, "slower_than_regkit": seconds}


def entry(case, data="brain", described=MACHINE, **seconds: float) -> dict:
    measured = {"providers": {name.replace("_", " "): figures(s) for name, s in seconds.items()}, "absent": {}, "failed": {}}
    return results.entry(case, data, measured, bandwidth=1e11, described=described)


def test_rates_follow_from_the_declared_bytes():
    warp = next(case for case in CASES if case.name == "warp forward")
    f = entry(warp, regkit_cpp=0.1)["providers"]["regkit cpp"]
    voxels = 160 * 192 * 224
    assert f["gigabytes_per_second"] == pytest.approx(20 * voxels / 0.1 / 1e9)
    assert f["share_of_copy"] == pytest.approx(20 * voxels / 0.1 / 1e11)
    assert f["gigaflops"] == pytest.approx(46 * voxels / 0.1 / 1e9)
    assert entry(warp, "x-ray", regkit_cpp=0.1)["providers"]["regkit cpp"]["gigabytes_per_second"] == pytest.approx(16 * 32 * 256**2 / 1e8)


def test_results_are_merged(tmp_path):
    first, second = CASES[:2]
    results.write([entry(first, regkit_cpp=1.0), entry(second, regkit_cpp=2.0)], MACHINE, tmp_path)
    path = results.write([entry(second, regkit_cpp=3.0), entry(second, "lung", regkit_cpp=4.0)], MACHINE, tmp_path)
    assert path.name == "some-cpu-2-threads.json"
    found = {(e["case"], e["data"]): e["providers"]["regkit cpp"]["seconds"] for e in results.read(path)}
    assert found == {(first.name, "brain"): 1.0, (second.name, "brain"): 3.0, (second.name, "lung"): 4.0}


def test_what_is_in_the_registry_no_more_leaves_the_results(tmp_path):
    path = results.write([entry(CASES[0], regkit_cpp=1.0), entry(FAILING[0], regkit_cpp=1.0)], MACHINE, tmp_path)
    assert len(results.read(path)) == 2
    results.write([entry(CASES[1], regkit_cpp=1.0)], MACHINE, tmp_path)
    assert {e["case"] for e in results.read(path)} == {CASES[0].name, CASES[1].name}


def test_readme_shows_the_committed_results():
    _, shown, _ = readme.parts(readme.README.read_text())
    assert shown == readme.tables(results.DIRECTORY), "run: python -m tests.benchmarks --readme"


def test_readme_table(tmp_path):
    results.write([entry(CASES[0], regkit_cuda=0.25, regkit_triton=0.5, other=1.5)], MACHINE, tmp_path)
    text = readme.tables(tmp_path)
    assert f"brain, {SIZES['brain']} voxels" in text and "copies move 100 GB/s" in text
    assert f"| {CASES[0].name} | cuda 250, triton 500 | 1% | 28 | other 1.5x |" in text


def test_gpu_defaults(tmp_path):
    """The backend with the least time relative to the others; an op's backward and variants go with it, ops of their own don't."""
    gpu = MACHINE | {"device": "cuda", "gpu": "Some GPU"}
    by_name = {case.name: case for case in CASES}
    path, table = tmp_path / "some-gpu.json", tmp_path / "gpu_default.py"
    measured = [
        entry(by_name["warp forward"], described=gpu, regkit_cuda=2.0, regkit_triton=1.0),
        entry(by_name["warp forward+backward (displacement)"], described=gpu, regkit_cuda=3.0, regkit_triton=4.0),
        entry(by_name["compose"], described=gpu, regkit_triton=1.0),
    ]
    path.write_text(json.dumps({"results": measured}))
    defaults.write(path, table)
    namespace: dict = {}
    exec(table.read_text(), namespace)
    assert namespace["FASTER"] == dict.fromkeys(("warp", "warp_backward", "warp_nearest"), "triton")
    assert "some-gpu.json (Some GPU, 2026-01-02)" in namespace["MEASURED"]


def test_gpu_defaults_want_results_of_a_gpu(tmp_path):
    path = results.write([entry(CASES[0], regkit_cpp=1.0)], MACHINE, tmp_path)
    with pytest.raises(ValueError, match="was measured on a CPU"):
        defaults.write(path, tmp_path / "gpu_default.py")


def test_gpu_default_cites_a_results_file():
    from regkit.ops import gpu_default

    if gpu_default.FASTER:
        assert (Path(__file__).parents[2] / gpu_default.MEASURED.partition(" ")[0]).exists()
    else:
        assert not gpu_default.MEASURED
