"""regkit eval compares what was carried over with what should be there, and says it as a table or as JSON."""

import json

import numpy as np
import pytest

from regkit.cli import main
from regkit.geometry import Affine, Composite, Grid, Image, Points, save_transform, write_image, write_points

SHIFT = np.array([4.0, -2.0, 6.0])


@pytest.fixture
def folder(tmp_path):
    """OUT with the true shift between two label maps and landmark lists."""
    grid = Grid((20, 20, 20), np.diag([2.0, 2.0, 2.0, 1.0]))
    matrix = np.eye(4)
    matrix[:3, 3] = SHIFT
    out = tmp_path / "out"
    out.mkdir()
    save_transform(Composite([Affine(matrix)]), out / "xfm.h5")
    save_transform(Composite([Affine(matrix).inverse()]), out / "xfm_inverse.h5")
    place = {"shape": grid.shape, "affine": grid.affine.tolist()}
    metrics = {"jacobian": {"folds": 0.0, "sdlogj": 0.03, "sdlogj_learn2reg": 0.01}}
    (out / "run.json").write_text(json.dumps({"grids": {"fixed": place, "moving": place}, "metrics": metrics}))
    labels = np.zeros((2, *grid.shape), np.int16)
    for label, corner in ((3, (4, 6, 4)), (1002, (9, 9, 9))):
        for scan, shift in ((0, (0, 0, 0)), (1, (2, -1, 3))):
            labels[scan][tuple(slice(c + s, c + s + 5) for c, s in zip(corner, shift))] = label
    labels[1][0, 0, 0] = 77  # known to the moving map only
    points = np.random.default_rng(0).uniform(10, 25, (30, 3))
    for name, part, shift in (("fixed", labels[0], 0), ("moving", labels[1], SHIFT)):
        write_image(Image(part, grid), tmp_path / f"{name}_labels.nii.gz")
        write_points(Points(points + shift), tmp_path / f"{name}_points.csv")
    return tmp_path


def options(folder, kind):
    return [f"--fixed-{kind}", str(next(folder.glob(f"fixed_{kind}.*"))), f"--moving-{kind}", str(next(folder.glob(f"moving_{kind}.*")))]


def test_json(folder, capsys):
    assert main(["eval", str(folder / "out"), *options(folder, "labels"), *options(folder, "points"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["labels"]) == {"3", "1002"}
    assert (
        found["mean"]["dice"] == 1
        and found["mean"]["hd95_mm"] == 0
        and found["mean"]["assd_mm"] == 0
        and found["mean"]["dice_before"] < 0.5
    )
    assert found["tre_mm"]["before"]["mean"] == pytest.approx(np.linalg.norm(SHIFT), abs=1e-6)
    assert found["tre_mm"]["after"] == pytest.approx(
        {"n": 30} | dict.fromkeys(("mean", "std", "median", "p25", "p75", "p95", "max"), 0), abs=1e-6
    )
    assert (found["folds"], found["sdlogj"], found["sdlogj_learn2reg"]) == (0, 0.03, 0.01)


def test_tables(folder, capsys):
    assert main(["eval", str(folder / "out"), *options(folder, "labels"), *options(folder, "points")]) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("1002", "Dice", "HD95", "ASSD", "mean", "7.48", "SDlogJ", "Folded voxels"))


def test_only_the_deformation(folder, capsys):
    assert main(["eval", str(folder / "out"), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"folds", "sdlogj", "sdlogj_learn2reg"}


def test_missing_label_is_null_in_json(folder, capsys):
    from regkit.geometry import read_image

    fixed = read_image(folder / "fixed_labels.nii.gz")
    data = fixed.data.copy()
    data[0, 0, 0] = 9
    write_image(Image(data, fixed.grid), folder / "fixed_labels.nii.gz")
    assert main(["eval", str(folder / "out"), *options(folder, "labels"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["labels"]["9"]["dice"] == 0 and found["mean"]["dice"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--fixed-labels", "fixed_labels.nii.gz"), 2, "needs --moving-labels"),
        (("--moving-points", "moving_points.csv"), 2, "needs --fixed-points"),
        (("--fixed-labels", "no.nii.gz", "--moving-labels", "moving_labels.nii.gz"), 3, "no such file"),
        (("--fixed-points", "fixed_points.csv", "--moving-points", "short.csv"), 3, "same landmarks"),
        (("--fixed-labels", "empty.nii.gz", "--moving-labels", "moving_labels.nii.gz"), 3, "no label above 0"),
    ],
)
def test_mistakes(folder, capsys, monkeypatch, arguments, code, told):
    monkeypatch.chdir(folder)
    (folder / "short.csv").write_text("x,y,z\n1,2,3\n")
    write_image(Image(np.zeros((4, 4, 4), np.uint8), Grid.from_spacing((4, 4, 4))), folder / "empty.nii.gz")
    assert main(["eval", "out", *arguments]) == code
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
