"""examples/train_lapirn.py trains on made data in the layout of the real, evaluates through regkit.register and prints its table."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from regkit.geometry import Image, write_image

ROOT = Path(__file__).resolve().parents[1]
QUICK = """
steps = {steps}
[network]
{network}
[data.input]
shrink = 1.0
shape = [16, 16, 16]
[loop]
save_every = 2
validate_every = 2
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_lapirn", ROOT / "examples/train_lapirn.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SETS = {name: replace(scans, validation=2) for name, scans in module.SETS.items()}
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Balls of two labels, off the middle, as hippocampi."""
    root = tmp_path_factory.mktemp("data")
    for kind in ("images", "labels"):
        (root / "hippocampus" / kind).mkdir(parents=True)
    for n in range(4):
        random = np.random.default_rng(n)
        place = np.stack(np.meshgrid(*(np.arange(k) for k in (14, 16, 15)), indexing="ij"))
        ball = np.linalg.norm(place - (7 + random.uniform(-1, 1, 3)).reshape(3, 1, 1, 1), axis=0) < 4.5
        labels = (ball + (ball & (place[0] > 7))).astype(np.uint8)
        image = labels + 0.1 * random.standard_normal(labels.shape)
        for kind, voxels in (("images", image.astype(np.float32)), ("labels", labels)):
            write_image(Image.from_array(voxels), root / "hippocampus" / kind / f"hippocampus_{n:03d}.nii.gz")
    return root


@pytest.mark.parametrize("network, steps, options", [("lapirn", "[2, 2]", "levels = 2\nstart_channels = 1"), ("voxelmorph", "2", "")])
def test_it_trains_and_prints_what_it_reaches(script, data, tmp_path, capsys, network, steps, options):
    config = tmp_path / "c.toml"
    config.write_text(QUICK.format(steps=steps, network=options) + ("[loss]\nwindows = [5, 3]\n" if network == "lapirn" else ""))
    if network == "voxelmorph":  # half precision needs more than two voxels where its grid is coarsest
        config.write_text(config.read_text().replace("[loop]", '[loop]\nprecision = "float32"'))
    given = ["hippocampus", "--data", data, "-o", tmp_path / "run", "--network", network, "--config", config, "--quiet", "--threads", 1]
    found = tmp_path / "found.json"
    assert script.main([str(x) for x in (*given, "--json", found)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines if line][1:] == ["initial alignment", network]
    rows = json.loads(found.read_text())
    assert all(0.3 < row["dice"] <= 1 for row in rows[network]) and len(rows[network]) == 2
    assert script.main([str(x) for x in (*given, "--evaluate", "--no-labels")]) == 0
    assert f"{network}, no labels" in capsys.readouterr().out


def test_mistakes_are_one_line(script, data, tmp_path, capsys):
    assert script.main(["brain", "--data", str(data), "-o", str(tmp_path / "run")]) == 3
    told = capsys.readouterr().err
    assert "0 images; 2 are for validation" in told and told.count("\n") == 1 and not (tmp_path / "run").exists()
    assert script.main(["hippocampus", "--data", str(data), "-o", str(tmp_path / "run"), "--evaluate"]) == 3
