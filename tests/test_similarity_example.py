"""examples/train_similarity_cnn.py on made heads in the layout of the brains."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from regkit import ops
from regkit.geometry import Image

SCRIPT = Path(__file__).resolve().parents[1] / "examples/train_similarity_cnn.py"
SHAPE = (32, 30, 28)
SMALL = ["--steps", "2", "--pairs", "1", "--width", "0.02", "--spacing", "1", "--quiet", "--threads", "1", "--set", "loop.batch = 2"]
SMALL += ["--set", f"data.input.shape = {list(SHAPE)}", "--set", "samples = {per_pair = 80, held_out = 4}"]
SMALL += ["--set", "network.share = 0.002"]


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("train_similarity_cnn", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TEST", 2)
    monkeypatch.setattr(module, "TIMED", 4)
    return module


def head(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cortex around unlabelled white matter, with a ventricle, a brain stem and a vessel, somewhere near the middle."""
    random = np.random.default_rng(seed)
    axes = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1) - np.array(SHAPE) / 2 - random.uniform(-1, 1, 3)
    distance = np.linalg.norm(axes, axis=-1)
    labels = np.select([distance < 3, distance < 8, distance < 11], [4, 0, 1002], 0).astype(np.int16)
    labels[(np.abs(axes[..., 0]) < 2) & (distance < 8) & (axes[..., 2] < -3)] = 16
    labels[(distance < 11) & (np.abs(axes[..., 1]) < 1) & (axes[..., 2] > 8)] = 30
    image = np.select([labels == 4, labels == 16, labels == 1002, distance < 11], [0.2, 0.9, 0.6, 1.0], 0.0)
    return (image * (1 + 0.05 * random.random(SHAPE))).astype(np.float32), labels


@pytest.fixture
def data(tmp_path) -> Path:
    for n in range(4):
        folder = tmp_path / f"data/brain-oasis-trt/{n:02}"
        folder.mkdir(parents=True)
        for array, name in zip(head(n), ("t1", "labels")):
            Image.from_array(array).save(folder / f"{name}.nii.gz")
    return tmp_path / "data"


def test_tissues(script):
    labels = np.array([[0, 1002, 2035, 10, 630], [7, 46, 16, 28, 85], [4, 43, 14, 15, 24], [30, 62, 0, 2, 5]])
    assert script.tissues(labels).tolist() == [[0, 1, 1, 1, 1], [2, 2, 2, 2, 2], [3, 3, 3, 3, 3], [0, 0, 0, 2, 3]]


def test_the_table_and_what_is_done_already(script, data, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    call = ["--data", str(data), "-o", str(out), "--arms", "full", "even", "--test-pairs", "1", *SMALL]
    assert script.main(call) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert [line[:24].strip() for line in lines[1:6]] == ["affine", "Demons", "local NCC, no training", "proposed", "without Eq. (1)"]
    assert [int(line[24:28]) for line in lines[1:6]] == [2, 2, 2, 2, 1]
    scores = json.loads((out / "scores/demons.json").read_text())
    assert [score["pair"] for score in scores] == ["02-03", "03-02"] and all(0.3 < d <= 1 for d in scores[0]["dice"])
    assert f"{np.mean([score['dice'][0] for score in scores]):.3f}" in lines[2]
    assert "ops.similarity_maps" in printed and "torch unfold and conv" in printed
    digests = [json.loads((out / arm / "data.json").read_text())["sha256"] for arm in ("full", "even")]
    assert len(set(digests)) == 1  # one manifest for all

    def fails(*args, **options):
        raise AssertionError("done again")

    import regkit

    monkeypatch.setattr(regkit, "register", fails)
    assert script.main(call) == 0
    assert capsys.readouterr().out.splitlines()[:6] == lines[:6]


def test_stars_and_p(script):
    """A method that is always better by about as much has a star, an uneven one has none."""
    draws = np.random.default_rng(0)
    demons = [{"dice": [0.7 + 0.1 * x, 0.8, 0.6], "assd": [1.0, 1.0, 1.0], "folds": 0.0, "seconds": 5.0} for x in draws.random(8)]
    better = [{**score, "dice": [score["dice"][0] + 0.02 + 0.001 * draws.random(), 0.8 + 0.1 * draws.normal(), 0.6]} for score in demons]
    lines = script.table({"affine": demons, script.BASELINES["demons"]: demons, "proposed": better})
    row = next(line for line in lines if line.startswith("proposed"))
    assert row.count("*") == 1 and row.index("*") < row.index(")", row.index(")") + 1)
    assert [line.split()[0] for line in lines[-1:]] == ["proposed"]


def test_unfolded_maps_are_the_ops(script):
    draws = torch.Generator().manual_seed(0)
    images = [torch.rand(1, 1, 24, 22, 23, generator=draws) for _ in range(2)]
    points = torch.tensor([[[11.0, 10, 11], [12, 11, 10]]])
    expected = ops.similarity_maps(*images, points, patch_size=7, kernel_sizes=(3, 5))
    torch.testing.assert_close(script.unfolded_maps(*images, points, 7, (3, 5)), expected, rtol=1e-4, atol=1e-5)


def test_options(script):
    args = script.parse(["--data", "x", "-o", "y", "--ablation", "--spacing", "1.4"])
    assert args.arms == ["full", "no-cue", "even"]
    full, bare, even = (script.configuration(arm, args) for arm in args.arms)
    assert full.network.longest == pytest.approx(5) and full.data.input.spacing_mm == 1.4 and full.network.kernel_sizes == (3, 5, 7, 9)
    assert bare.network.kernel_sizes == () and bare.samples == full.samples
    assert even.samples.sampling == "even" and even.network == full.network
    assert np.abs(np.array(full.data.input.shape) * 1.4 - script.BOX_MM).max() <= 1.4


def test_mistakes_are_told_in_one_line(script, tmp_path, capsys):
    for wrong, code in (([], 3), (["--set", "loop.lr = 1"], 2), (["--set", "steps"], 2), (["--width", "0"], 2), (["--spacing", "0"], 2)):
        assert script.main(["--data", str(tmp_path), *wrong, "-o", str(tmp_path / "run")]) == code
        assert capsys.readouterr().err.count("\n") == 1
