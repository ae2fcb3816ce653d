"""The demo from end to end on a small phantom, then apply, eval and SimpleITK on what it wrote."""

import json

import numpy as np
import pytest

from regkit.cli import main
from regkit.data import phantom
from regkit.geometry import image_to_sitk, read_image, read_points

SHAPE = (48, 40, 40)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(folder, pair): folder/out as the demo wrote it, folder/pair as files."""
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--shape", *map(str, SHAPE), "--out", str(folder / "out"), "--threads", "1", "--quiet"]) == 0
    pair = phantom(SHAPE)
    pair.save(folder / "pair")
    return folder, pair


def test_landmarks_come_closer(demo, capsys):
    folder, _ = demo
    pair = folder / "pair"
    options = [f"--{name}={pair / name.replace('-', '_')}" for name in ("fixed-points", "moving-points")]
    labels = [f"--{name}={pair / name.replace('-', '_')}.nii.gz" for name in ("fixed-labels", "moving-labels")]
    assert main(["eval", str(folder / "out"), *(f"{option}.csv" for option in options), *labels, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tre_mm"]["after"]["mean"] < 0.5 * found["tre_mm"]["before"]["mean"]
    assert found["mean"]["dice"] > found["mean"]["dice_before"]
    assert found["folds"] < 0.001


def test_report_shows_the_landmarks(demo):
    folder, _ = demo
    page = (folder / "out/report.html").read_text("utf-8")
    assert "landmark errors" in page and "Landmark error" in page and "Dice" in page


def test_apply_moves_what_was_registered(demo):
    folder, pair = demo
    inputs = [str(folder / "pair" / name) for name in ("moving.nii.gz", "moving_labels.nii.gz", "moving_points.csv")]
    assert main(["apply", str(folder / "out"), *inputs, "-o", str(folder / "applied"), "--quiet"]) == 0
    np.testing.assert_allclose(read_image(folder / "applied/moving.nii.gz").data, read_image(folder / "out/moved.nii.gz").data, atol=0.1)
    labels = read_image(folder / "applied/moving_labels.nii.gz").data
    assert labels.dtype == np.uint8 and set(np.unique(labels)) <= set(np.unique(pair.moving_labels.data))
    error = np.linalg.norm(read_points(folder / "applied/moving_points.csv").coordinates - pair.fixed_points.coordinates, axis=1)
    assert error.mean() < 0.5 * np.linalg.norm(pair.moving_points.coordinates - pair.fixed_points.coordinates, axis=1).mean()


def test_simpleitk_makes_the_same_moved_scan(demo):
    import SimpleITK

    folder, pair = demo
    transform = SimpleITK.ReadTransform(str(folder / "out/xfm.h5"))
    fixed, moving = image_to_sitk(pair.fixed), image_to_sitk(pair.moving)
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.Resample(moving, fixed, transform, SimpleITK.sitkLinear, 0.0)).T
    ours = read_image(folder / "out/moved.nii.gz").data
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 1e-3
