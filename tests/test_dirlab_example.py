"""examples/evaluate_dirlab.py on made files in DIR-Lab's format."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from regkit.data import phantom
from tests import dirlab_files

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (64, 64, 56)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("evaluate_dirlab", ROOT / "examples/evaluate_dirlab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_papers_table(script, tmp_path, monkeypatch, capsys):
    made = phantom(SHAPE, spacing=(5.3, 5.3, 5.8), landmarks=40, motion_mm=20)
    dirlab_files.shrink(monkeypatch, SHAPE, 5.3, 5.8)
    dirlab_files.write(tmp_path / "data", "4dct", 1, made)
    config = tmp_path / "small.toml"
    config.write_text("[embedding]\nsearch_radius = 3\npatch_radius = 1\n")
    arguments = ["--data", str(tmp_path / "data"), "--paper", "--config", str(config), "--json", str(tmp_path / "out.json"), "--quiet"]
    assert script.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "4D-CT, n=1" in printed and "COPD, n=0" not in printed and "2.13 (1.65)" in printed
    results = json.loads((tmp_path / "out.json").read_text())
    assert list(results) == ["embedding alone, 256", "embedding alone, 512"]
    case = results["embedding alone, 256"]["4dct"][0]
    initial, after, snapped = (np.array(case[name]) for name in ("initial", "continuous", "snapped"))
    assert len(initial) == 40 and after.mean() < 0.7 * initial.mean()
    voxel = np.array([5.3, 5.3, 5.8])
    assert np.abs(snapped - after).max() <= np.linalg.norm(voxel) / 2 + 1e-6
    assert f"{after.mean():.2f} ({after.std():.2f})" in printed


def test_a_network_in_the_embeddings_place(script, tmp_path, monkeypatch, capsys):
    """GraphRegNet that comes with regkit, alone beside the paper's embedding and refined beside the preset."""
    dirlab_files.shrink(monkeypatch, SHAPE, 5.3, 5.8)
    dirlab_files.write(tmp_path, "copd", 10, phantom(SHAPE, spacing=(5.3, 5.3, 5.8), landmarks=40, motion_mm=20))
    (tmp_path / "small.toml").write_text("[embedding]\nsearch_radius = 3\n")  # the network has its own
    given = ["--data", str(tmp_path), "--config", str(tmp_path / "small.toml"), "--json", str(tmp_path / "out.json"), "--quiet"]
    given += ["--model", "graphregnet-lung"]
    for more, beside in (["--paper"], ["embedding alone, 256", "embedding alone, 512"]), ([], ["regkit, ct-lung"]):
        assert script.main([*given, *more]) == 0
        results = json.loads((tmp_path / "out.json").read_text())
        assert list(results) == [*beside, "graphregnet-lung"]
        case = results["graphregnet-lung"]["copd"][0]
        assert np.mean(case["continuous"]) < 0.7 * np.mean(case["initial"])
    assert "graphregnet-lung, by case" in capsys.readouterr().out
    monkeypatch.setattr(script, "errors", lambda *_: pytest.fail("registered before it was told"))
    assert script.main([*given[:-1], str(tmp_path / "nothing.safetensors")]) in (2, 3)
    assert "nothing.safetensors" in capsys.readouterr().err


def test_messages(script, tmp_path, capsys):
    assert script.main(["--data", str(tmp_path)]) == 3
    assert "no scans of DIR-Lab" in capsys.readouterr().err
