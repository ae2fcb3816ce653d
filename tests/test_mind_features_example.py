"""examples/train_mind_features.py on small phantoms and made crops, and real scans beside them."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from regkit.geometry import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SMALL = ["--phantoms", "1", "--shape", "48", "40", "44", "--steps", "2", "--quiet", "--threads", "1"]
SMALL += ["--set", "data.input.shape = [16, 16, 16]", "--set", "network.channels = 2"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)  # it takes from the other scripts
    spec = importlib.util.spec_from_file_location("train_mind_features", EXAMPLES / "train_mind_features.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("train_lapirn", None)


@pytest.fixture
def data(tmp_path):
    random = np.random.default_rng(0)
    paths = [f"hippocampus/images/hippocampus_{n:03}.nii.gz" for n in range(12)] + ["brain-oasis-trt/00/t1.nii.gz"]
    for path in paths:
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.from_array(random.random((17, 20, 18), dtype=np.float32)).save(tmp_path / "data" / path)
    return tmp_path / "data"


def test_the_table_and_what_is_done_already(script, data, tmp_path, capsys):
    call = ["--data", str(data), "-o", str(tmp_path / "run"), "--scans", "brain-oasis-trt", *SMALL]
    assert script.main(call) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["phantom", "4"], ["hippocampi", "10"], ["brain-oasis-trt", "1"]]
    assert all(0 < float(line.split()[2]) < 1 and 0 < float(line.split()[3]) < 0.2 for line in lines[1:])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert script.main(call) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before


def test_mistakes_are_told_before_anything_is_written(script, data, tmp_path, capsys):
    out = tmp_path / "run"
    for more, code, said in (
        (["--set", "target.radios = 1"], 2, "radios"), (["--set", "target."], 2, "--set target."),
        (["--phantoms", "0"], 2, "must be at least 1"), (["--phantoms", "3"], 3, "12 images, and 16 are needed"),
        (["--scans", "lung-ct"], 3, "no scans"),
    ):  # fmt: skip
        assert script.main(["--data", str(data), "-o", str(out), *SMALL, *more]) == code
        assert said in capsys.readouterr().err and not out.exists()
