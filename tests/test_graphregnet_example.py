"""examples/train_graphregnet.py on small phantoms: every row of its table, what is done already, and the real pair beside them."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--phantoms", "1", "--test", "1", "--shape", "48", "40", "44", "--spacing", "7", "--landmarks", "20", "--steps", "2", "--quiet"]
SEARCH = ["--set", "samples.keypoints = 20", "--set", "samples.per_step = 10", "--set", 'data.input.align = "header"']


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("train_graphregnet", ROOT / "examples/train_graphregnet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "EMBEDDED", (0, 8))
    return module


def test_rows(script, tmp_path):
    bases = {features: tmp_path / features for features in ("mind", "learned")}
    rows = script.methods(bases, tmp_path / "weights", script.parse(["-o", str(tmp_path), *SMALL]))
    ways = ["no embedding", "PCA 8 of the pair", "PCA 8 of the corpus"]
    embedded = [f"{said}, {way}, {diffusion}" for said in ("MIND", "learned") for way in ways for diffusion in ("none", "diffusion")]
    assert list(rows) == ["affine", *embedded, "GraphRegNet", "GraphRegNet, refined", "preset ct-lung"]
    found = rows["learned, PCA 8 of the corpus, none"]["config"].embedding
    assert (found.features, found.dimensions, found.diffusion, found.basis) == ("learned", 8, 0.0, str(tmp_path / "learned"))


def test_the_table(script, tmp_path, monkeypatch, capsys):
    methods = script.methods
    chosen = ("learned, PCA 8 of the corpus, diffusion", "GraphRegNet")
    monkeypatch.setattr(script, "methods", lambda *given: {name: how for name, how in methods(*given).items() if name in chosen})
    out = tmp_path / "run"
    assert script.main(["-o", str(out), *SMALL, *SEARCH]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line[:44].rstrip() for line in printed[1:]] == list(chosen)
    assert all(0 < float(line[44:].split()[0]) < 40 for line in printed[1:])
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert script.main(["-o", str(out), *SMALL, *SEARCH]) == 0  # done already
    assert capsys.readouterr().out.splitlines() == printed
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before


def test_what_is_wrong_is_told_before_anything_is_written(script, tmp_path, capsys):
    assert script.main(["-o", str(tmp_path / "run"), *SMALL, "--set", "network.search_radios = 3"]) == 2
    assert "search_radios" in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert script.main(["-o", str(tmp_path / "run"), *SMALL, "--set", "network."]) == 2
    assert "--set network." in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert script.main(["-o", str(tmp_path / "run"), *SMALL, "--features", "hippocampus"]) == 2
    assert "not a feature-network" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_missing_pair_and_no_phantoms_are_told_at_once(script, tmp_path, capsys):
    assert script.main(["-o", str(tmp_path / "run"), *SMALL, "--lung", str(tmp_path / "nowhere")]) == 3
    assert "no such folder" in capsys.readouterr().err
    assert script.main(["-o", str(tmp_path / "run"), *SMALL, "--test", "0"]) == 2
    assert "must be at least 1" in capsys.readouterr().err and not (tmp_path / "run").exists()
