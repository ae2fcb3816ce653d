"""examples/train_ldgnet.py on made scans in the layout of IXI as TransMorph distributes it."""

import importlib.util
import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (32, 32, 48)
SMALL = ["--set", f"data.input.shape = {list(SHAPE)}", "--set", 'loop.precision = "float32"', "--steps", "2", "--quiet", "--threads", "1"]


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "examples"))
    spec = importlib.util.spec_from_file_location("train_ldgnet", ROOT / "examples/train_ldgnet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "examples"))
    sys.modules.pop("train_lapirn", None)


def brain(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball in a dark one, somewhere near the middle, and its labels."""
    center = np.array(SHAPE) / 2 + np.random.default_rng(seed).uniform(-2, 2, 3)
    distance = np.sqrt(sum((x - c) ** 2 for x, c in zip(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), center)))
    labels = (distance < 12).astype(np.uint16) + (distance < 7)
    return (0.4 * labels + 0.02 * np.random.default_rng(seed).random(SHAPE)).astype(np.float32), labels


@pytest.fixture
def ixi(tmp_path) -> Path:
    home = tmp_path / "IXI_data"
    for n, name in enumerate(("atlas.pkl", "Train/subject_0.pkl", "Train/subject_1.pkl", "Test/subject_2.pkl", "Test/subject_3.pkl")):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(pickle.dumps(brain(n)))
    return home


def test_ablation(script, ixi, tmp_path, capsys):
    out = tmp_path / "run"
    assert script.main(["--ixi", str(ixi), "-o", str(out), "--models", "A", "D", "--seeds", "0", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines() if line.startswith(("A ", "B ", "C ", "D "))] == list("ADD")
    assert script.parse(["--ixi", "x", "-o", "y", "--ablation"]).models == list("ABCD")
    assert "301,411" in printed and "392,508" in printed and "gain over A" in printed
    pairs = json.loads((out / "D-seed0/test.json").read_text())
    assert [p["pair"] for p in pairs] == ["validation-subject_2-validation-atlas", "validation-subject_3-validation-atlas"]
    assert all(0.3 < p["before"] < 1 and abs(p["dice"] - p["before"]) < 0.05 for p in pairs)  # two steps
    before = (out / "A-seed0/last.safetensors").stat().st_mtime_ns
    assert script.main(["--ixi", str(ixi), "-o", str(out), "--models", "A", "D", *SMALL]) == 0  # done already
    assert (out / "A-seed0/last.safetensors").stat().st_mtime_ns == before


class Evil:
    def __reduce__(self):
        return os.system, ("false",)


@pytest.mark.parametrize("content", [pickle.dumps((Evil(), Evil())), pickle.dumps((np.zeros((2, 2)), np.zeros(3))), b"no pickle"])
def test_files_that_hold_something_else(script, ixi, tmp_path, capsys, content):
    (ixi / "Train/subject_0.pkl").write_bytes(content)
    assert script.main(["--ixi", str(ixi), "-o", str(tmp_path / "run"), *SMALL]) == 3
    told = capsys.readouterr().err
    assert "subject_0.pkl: not an (image, labels) pair of arrays" in told and told.count("\n") == 1


def test_mistakes_are_told_in_one_line(script, tmp_path, capsys):
    for wrong, code in (
        (["--ixi", str(tmp_path)], 3), (["--data", str(tmp_path)], 3), (["--ixi", str(tmp_path), "--set", "loop.lr = 1"], 2),
        (["--ixi", str(tmp_path), "--set", "loop.learning_rate"], 2), (["--ixi", str(tmp_path), "--dilations", "0"], 2),
    ):  # fmt: skip
        assert script.main([*wrong, "-o", str(tmp_path / "run")]) == code
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and told.count("train_ldgnet") == 1
        assert not (tmp_path / "run").exists()
