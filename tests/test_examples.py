"""The examples run, and find what was put into small made data in the layout of the real."""

import importlib.util
import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from regkit.data import Phantom, phantom
from regkit.geometry import Grid, Image, write_image, write_points
from regkit.metrics import dice, tre

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (40, 36, 36)
QUICK = """
[affine]
iterations = [30, 20]
[embedding]
enabled = false
[refine]
iterations = [40, 40, 0]
"""
MISTAKES = [
    ["brain", "--pairs", "1"],
    ["brain", "--pairs", "1-9"],
    ["lung", "--data", "nowhere"],
    ["xray", "--preset", "xry"],
    ["lung", "--device", "tpu"],
]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_scans", ROOT / "examples/real_scans.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made() -> Phantom:
    return phantom(SHAPE)


@pytest.fixture(scope="module")
def data(made, tmp_path_factory) -> Path:
    """Every data set as the script expects it: the thorax as lung and hippocampus; as brains too, which are one person's, who lies
    elsewhere by the header, and lack label 1002 in the moving one; rectangles as chest X-rays."""
    root = tmp_path_factory.mktemp("data")
    folders = ["lung-ct", "brain-oasis-trt/01", "brain-oasis-trt/02", "hippocampus/images", "hippocampus/labels"]
    folders += [f"chest-xray/{source}/256/{kind}" for source in ("montgomery", "shenzhen") for kind in ("images", "labels")]
    for folder in folders:
        (root / folder).mkdir(parents=True)
    parts = made.fixed_labels.data.astype(np.int32)
    parts[(parts == 1) | (parts == 2)] += 1000  # the lungs are cortical
    for number, side in enumerate(("fixed", "moving"), start=1):
        scan = getattr(made, side)
        write_image(scan, root / f"lung-ct/{side}.mha")
        write_image(getattr(made, f"{side}_mask"), root / f"lung-ct/{side}_mask.mha")
        write_points(getattr(made, f"{side}_points"), root / f"lung-ct/{side}_landmarks.txt")
        write_image(scan, root / f"hippocampus/images/hippocampus_{number:03d}.nii.gz")
        write_image(getattr(made, f"{side}_labels"), root / f"hippocampus/labels/hippocampus_{number:03d}.nii.gz")
        affine = made.fixed.grid.affine.copy()
        affine[:-1, -1] += 20 * number
        write_image(Image(made.fixed.data, Grid(SHAPE, affine)), root / f"brain-oasis-trt/{number:02d}/t1.nii.gz")
        write_image(
            Image(np.where((parts == 1002) & (side == "moving"), 0, parts), Grid(SHAPE, affine)),
            root / f"brain-oasis-trt/{number:02d}/labels.nii.gz",
        )
        for source in ("montgomery", "shenzhen"):
            image, lungs = chest(4 * number)
            write_image(image, root / f"chest-xray/{source}/256/images/{source}_{number}.png")
            write_image(lungs, root / f"chest-xray/{source}/256/labels/{source}_{number}.png")
    (root / "quick.toml").write_text(QUICK, encoding="utf-8")
    return root


def chest(longer: int) -> tuple[Image, Image]:
    """Two dark lungs, `longer` pixels longer than usual, in a bright chest, and their labels."""
    labels = np.zeros((96, 96), np.uint8)
    for left in (20, 56):
        labels[left : left + 20, 24 : 60 + longer] = 255
    grid = Grid.from_spacing(labels.shape, 1.0)
    noise = np.random.default_rng(longer).integers(0, 10, labels.shape)
    return Image((180 - labels // 2 + noise).astype(np.uint8), grid), Image(labels, grid)


def written(script: ModuleType, data: Path, name: str, *options: str) -> dict[str, Any]:
    """What --json holds."""
    out = data / "figures.json"
    common = ["--data", str(data), "--config", str(data / "quick.toml"), "--threads", "1", "--json", str(out)]
    assert script.main([name, *common, *options]) == 0
    return json.loads(out.read_text("utf-8"))


def test_landmarks(script, data, made, capsys):
    (lung,) = [row["figures"] for row in written(script, data, "lung")["pairs"]]
    before = tre(made.fixed_points, made.moving_points)
    assert lung["tre_mean"] < 0.3 * before.mean() and lung["tre_median"] < 0.3 * np.median(before) and lung["tre_max"] > lung["tre_mean"]
    assert lung["folds_percent"] == 0 and 0 < lung["sdlogj"] < 1 and lung["seconds"] > 0 and lung["peak_mb"] > 0
    printed = capsys.readouterr().out
    assert "lung fixed-moving" in printed and "ct-lung" in printed and f"{lung['tre_mean']:.3f}" in printed


def test_labels(script, data, made):
    (brain,) = [row["figures"] for row in written(script, data, "brain", "--pairs", "1-2")["pairs"]]
    count = np.unique(made.fixed_labels.data).size - 1
    assert brain["dice"] == pytest.approx((count - 1) / count, abs=0.02)  # one person, so all labels meet but the missing one
    assert brain["dice_cortical"] == pytest.approx(1 / 2, abs=0.02)


def test_random_pairs_are_those_of_peers(script, data):
    rows = written(script, data, "hippocampus", "--n", "4")["pairs"]
    names, generator = ["hippocampus_001", "hippocampus_002"], random.Random(0)
    assert [row["pair"] for row in rows] == ["-".join(generator.sample(names, 2)) for _ in range(4)]


def test_xray_sets_are_apart(script, data, capsys):
    rows = written(script, data, "xray", "--n", "3", "--quiet")["pairs"]
    assert [row["group"] for row in rows] == ["montgomery"] * 3 + ["shenzhen"] * 3
    before = dice(chest(4)[1], chest(8)[1])[255]
    assert all(row["figures"]["dice"] > before + 0.01 for row in rows)
    assert "montgomery_1" not in capsys.readouterr().out  # --quiet: the table only


def test_options(script, data):
    found = written(script, data, "lung", "--repeat", "2", "--device", "cpu")
    assert found["pairs"][0]["device"] == "cpu" and {"affine", "refine", "total"} <= set(found["pairs"][0]["stages"])
    found = written(script, data, "phantom", "--shape", *map(str, SHAPE), "--preset", "generic")
    assert [(row["pair"], row["preset"]) for row in found["pairs"]] == [("40x36x36", "generic")]
    assert found["configs"]["phantom"]["refine"]["iterations"] == [40, 40, 0]


def test_all_takes_what_is_there(script, data, tmp_path):
    (tmp_path / "lung-ct").symlink_to(data / "lung-ct")
    rows = written(script, data, "all", "--data", str(tmp_path), "--shape", *map(str, SHAPE))["pairs"]
    assert [row["group"] for row in rows] == ["lung", "phantom"]


@pytest.mark.parametrize("wrong", MISTAKES)
def test_mistakes_are_told_in_one_line(script, data, wrong, capsys):
    assert script.main(["--data", str(data), *wrong]) in (2, 3)
    assert len(capsys.readouterr().err.splitlines()) == 1
