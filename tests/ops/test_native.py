"""The extension: its builds agree, a forked child can use it, several Python threads can, and importing the ops pulls in nothing heavy."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from regkit import ops
from regkit.ops import native
from tests.ops.cases import NAMES, assert_same, cases, displacement, randn, value_and_gradients

ROOT = Path(__file__).parents[2]
RESULTS = """
import sys, torch
from regkit.ops import native
from tests.ops.cases import cases, value_and_gradients
assert native.extension().instruction_set == sys.argv[2]
results = {}
for spatial in ((13, 37), (7, 9, 21)):
    for name, case in cases(spatial, dtype=torch.float32).items():
        results[f"{name} {spatial}"] = value_and_gradients(case.function, case.tensors)
torch.save(results, sys.argv[1])
"""


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs code in a fresh interpreter at the repository's root."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_builds_for_all_instruction_sets_agree(tmp_path):
    results = {}
    for name in native.extension().supported_instruction_sets():
        run = python(RESULTS, str(tmp_path / name), name, REGKIT_INSTRUCTION_SET=name)
        assert run.returncode == 0, run.stderr
        results[name] = torch.load(tmp_path / name)
    for name, result in results.items():
        for case, got in result.items():
            assert_same(f"{case} on {name}", got, results["baseline"][case], 1e-5)


def test_unsupported_instruction_set(monkeypatch):
    monkeypatch.setenv("REGKIT_INSTRUCTION_SET", "mmx")
    with pytest.raises(ImportError, match="REGKIT_INSTRUCTION_SET=mmx is not one of those this CPU supports: .*baseline"):
        native.extension.__wrapped__()


def test_importing_the_ops_loads_nothing_heavy():
    heavy = {"nibabel", "SimpleITK", "monai", "matplotlib", "scipy", "jinja2", "rich", "tyro"}
    run = python(f"import sys, regkit.ops; print(*({heavy} & set(sys.modules)))")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ""


def _warp_in_child(connection, image, u):
    # Summed by numpy: torch's own threads do not survive a fork.
    connection.send(ops.warp(image, u).numpy().sum().item())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    """The child inherits the pool's memory but none of its threads: it must not wait for them."""
    image, u = randn(1, 1, 40, 41, 42), displacement((40, 41, 42), 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        want = ops.warp(image, u).numpy().sum().item()
        mine, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=_warp_in_child, args=(theirs, image, u))
        child.start()
        assert mine.poll(60), "the child hangs"
        assert mine.recv() == want
        child.join(10)
        assert ops.warp(image, u).numpy().sum().item() == want  # and the parent's pool still works
    finally:
        torch.set_num_threads(before)


def test_many_python_threads_at_once():
    case = cases((20, 21, 40), batch=1, dtype=torch.float32)
    want = {name: value_and_gradients(case[name].function, case[name].tensors) for name in NAMES}
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(4) as threads:
            got = list(threads.map(lambda name: (name, value_and_gradients(case[name].function, case[name].tensors)), NAMES * 3))
    finally:
        torch.set_num_threads(before)
    for name, result in got:
        assert all(torch.equal(x, y) for x, y in zip(result, want[name])), name


def test_helpers():
    assert native.sizes((4, 5)) == (1, 4, 5) and native.sizes((3, 4, 5)) == (3, 4, 5)
    assert native.address(None) == 0
    assert native.working_dtype(torch.zeros(1).half(), torch.zeros(1)) == torch.float32
    assert native.working_dtype(torch.zeros(1), torch.zeros(1).double()) == torch.float64
    assert native.function("warp", torch.float64).__name__ == "warp_float64"
