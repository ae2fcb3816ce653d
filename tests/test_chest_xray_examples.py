"""examples/train_chest_xray.py and evaluate_chest_xray.py on made X-rays in the layout of the real ones."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from regkit.geometry import Image

ROOT = Path(__file__).resolve().parents[1]
SIZE = 256


@pytest.fixture(scope="module")
def scripts():
    """Both examples, as when the first is run: its directory is where it finds the second."""
    sys.path.insert(0, str(ROOT / "examples"))
    modules = []
    for name in ("evaluate_chest_xray", "train_chest_xray"):
        spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        modules.append(module)
    modules[1].STAGES = {name: replace(stage, steps=2, batch=2) for name, stage in modules[1].STAGES.items()}
    yield modules
    sys.path.remove(str(ROOT / "examples"))
    for name in ("evaluate_chest_xray", "train_chest_xray"):
        del sys.modules[name]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Bright boxes of two labels, each a little elsewhere."""
    home = tmp_path_factory.mktemp("xrays") / "montgomery"
    for n in range(5):
        random = np.random.default_rng(n)
        labels = np.zeros((SIZE, SIZE), np.uint8)
        for value, left in ((128, 50), (255, 150)):
            x, y = (int(v) for v in random.integers(-10, 10, 2))
            labels[left + x : left + x + 60, 60 + y : 200 + y] = value
        image = (40 + 100 * (labels > 0) + random.integers(0, 20, labels.shape)).astype(np.uint8)
        for kind, voxels in (("images", image), ("labels", labels)):
            (home / "256" / kind).mkdir(parents=True, exist_ok=True)
            Image.from_array(voxels).save(home / "256" / kind / f"scan{n}.png")
    return home


def test_all_stages_then_the_table(scripts, data, tmp_path, capsys):
    given = ["--data", data, "-o", tmp_path / "run", "--quiet", "--threads", 1]
    (tmp_path / "test.txt").write_text("images/scan3.png\nscan4\n")
    given += ["--test-list", tmp_path / "test.txt"]
    assert scripts[1].main([str(g) for g in given]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in out[2:]] == ["no registration", "attention", "registration"]
    assert (tmp_path / "run/pairs.csv").read_text().count("validation") == 2
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("last.safetensors")}
    assert len(written) == 3
    assert scripts[1].main([str(g) for g in [*given, "--labels", 255]]) == 2
    assert "take another --out" in capsys.readouterr().err
    assert scripts[1].main([str(g) for g in [*given, "--pairs", 1, "--stages", "registration"]]) == 0  # nothing is trained twice
    assert {path: path.stat().st_mtime_ns for path in written} == written
    weights = tmp_path / "run/registration/last.safetensors"
    assert scripts[0].main([str(g) for g in ["--data", data, "--list", tmp_path / "test.txt", "--json", tmp_path / "t.json", weights]]) == 0
    rows = json.loads((tmp_path / "t.json").read_text())["registration"]
    assert [(row["fixed"], row["moving"]) for row in rows] == [("scan3", "scan4"), ("scan4", "scan3")]
    capsys.readouterr()
    twice = ["--data", data, "--list", tmp_path / "test.txt", "--remove-folds", weights, weights]  # of one stage, as of two runs
    assert scripts[0].main([str(t) for t in twice]) == 0
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[2:]] == ["registration", str(weights)]


def test_sets_are_learned_together_and_tested_alone(scripts, data, tmp_path, capsys):
    other = tmp_path / "jsrt"
    for path in sorted((data / "256").rglob("*.png")):
        copied = other / "256" / path.parent.name / f"other-{path.name}"
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())
    scripts[1].SHARE, given = 0.4, ["--data", data, other, "-o", tmp_path / "run", "--quiet", "--threads", 1, "--stages", "best"]
    assert scripts[1].main([str(g) for g in given]) == 0
    out = capsys.readouterr().out.splitlines()
    names = ["no registration", "attention", "best"]
    assert [line.split("  ")[0] for line in out if not line.startswith("method")] == [
        "montgomery, 2 test images", *names, "jsrt, 2 test images", *names
    ]  # fmt: skip
    assert (tmp_path / "run/pairs.csv").read_text().count("train") == 6
    assert scripts[1].main([str(g) for g in [*given, "--test-list", tmp_path / "test.txt"]]) == 2
    assert "are for one directory" in capsys.readouterr().err


def test_figures_are_those_of_a_known_shift(scripts, data):
    """Moving labels are the fixed ones 8 pixels on: with no field HD is 8, with the right one everything matches."""
    fixed = scripts[0].read(data / "256/images/scan0.png", None)
    moving = replace(fixed, labels=Image(np.roll(fixed.labels.data, 8, 1), fixed.labels.grid))
    u = torch.zeros(1, 2, SIZE, SIZE)
    still = scripts[0].measure(fixed, scripts[0].moved_labels(moving, u), u, 1.672)
    assert still["hd_px"] == 8 and still["hd_mm"] == pytest.approx(8 * 1.672)
    assert still["dsc"] == pytest.approx(1 - 8 / 140)
    u[:, 1] = 8
    found = scripts[0].measure(fixed, scripts[0].moved_labels(moving, u), u, None)
    assert found == {"dsc": 1.0, "hd_px": 0.0, "assd_px": 0.0, "jac": 0.0}
    u[0, 1, 100, 100:110] = torch.arange(0, -20, -2.0)  # runs backwards over ten pixels
    assert scripts[0].measure(fixed, fixed.labels.data, u, None)["jac"] > 5


def test_one_label_of_several(scripts, data):
    scan = scripts[0].read(data / "256/images/scan0.png", (255,))
    assert set(np.unique(scan.labels.data)) == {0, 255}


@pytest.mark.parametrize(
    "given, said",
    [
        (["--stages", "nonsense"], "unknown stage nonsense"),
        (["--test-list", "{list}"], "1 of 1 images are not in"),
        (["--mm", "-1", "--test-list", "{two}"], "--mm must be above 0"),
        (["--config", "{config}", "--test-list", "{two}"], "steps must be at least 1"),
        (["--data", "{data}", "{data}"], "5 images twice (scan0 is one)"),
    ],
)
def test_bad_input_is_one_line(scripts, data, tmp_path, capsys, given, said):
    (tmp_path / "list.txt").write_text("nobody\n")
    (tmp_path / "two.txt").write_text("scan3\nscan4\n")
    (tmp_path / "config.toml").write_text("steps = 0\n")
    places = {"list": tmp_path / "list.txt", "two": tmp_path / "two.txt", "config": tmp_path / "config.toml", "data": data}
    given = [g.format(**places) for g in given]
    assert scripts[1].main(["--data", str(data), "-o", str(tmp_path / "run"), *given]) in (2, 3)
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert scripts[0].main(["--data", str(tmp_path)]) == 3
    assert "has neither" in capsys.readouterr().err
