"""regkit apply moves images, label maps and landmarks the right way, named by spaces, from an OUT directory or a bare transform."""

import json

import numpy as np
import pytest

from regkit.cli import main
from regkit.geometry import (
    Affine,
    Composite,
    DisplacementField,
    Grid,
    Image,
    Points,
    read_image,
    read_points,
    resample,
    save_transform,
    write_image,
    write_points,
)

SHIFT = np.array([4.0, -2.0, 6.0])  # mm, fixed to moving: twice, once and three times a voxel


@pytest.fixture
def spaces(tmp_path):
    """An OUT directory whose transform is a shift by whole voxels, and things in its moving space."""
    fixed = Grid((12, 14, 10), np.diag([2.0, 2.0, 2.0, 1.0]))
    moving = Grid((14, 12, 12), np.diag([2.0, 2.0, 2.0, 1.0]))
    matrix = np.eye(4)
    matrix[:3, 3] = SHIFT
    out = tmp_path / "out"
    out.mkdir()
    save_transform(Composite([Affine(matrix)]), out / "xfm.h5")
    save_transform(Composite([Affine(matrix).inverse()]), out / "xfm_inverse.h5")
    grids = {name: {"shape": grid.shape, "affine": grid.affine.tolist()} for name, grid in (("fixed", fixed), ("moving", moving))}
    (out / "run.json").write_text(json.dumps({"grids": grids, "metrics": {"folds": 0.0}}))
    labels = np.random.default_rng(0).choice(np.array([0, 3, 1002], np.int16), moving.shape)
    write_image(Image(labels, moving), tmp_path / "labels.nii.gz")
    write_image(Image(np.random.default_rng(1).random(moving.shape, dtype=np.float32), moving), tmp_path / "scan.nii.gz")
    write_points(Points(np.array([[8.0, 8.0, 10.0], [10.5, 9.0, 11.0]]), names=["a", "b"]), tmp_path / "points.csv")
    return tmp_path, fixed, moving


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def test_everything_to_the_fixed_space(spaces, capsys):
    folder, fixed, moving = spaces
    names = ["labels.nii.gz", "scan.nii.gz", "points.csv"]
    assert run("apply", folder / "out", *(folder / name for name in names), "-o", folder / "moved") == 0
    assert sorted(file.name for file in (folder / "moved").iterdir()) == sorted(names)
    labels, source = read_image(folder / "moved/labels.nii.gz"), read_image(folder / "labels.nii.gz").data
    assert labels.grid.matches(fixed) and labels.data.dtype == np.int16 and set(np.unique(labels.data)) == {0, 3, 1002}
    np.testing.assert_array_equal(labels.data[:11, 1:11, :9], source[2:13, 0:10, 3:12])
    scan = read_image(folder / "moved/scan.nii.gz")
    assert scan.data.dtype == np.float32
    np.testing.assert_allclose(scan.data[:11, 1:11, :9], read_image(folder / "scan.nii.gz").data[2:13, 0:10, 3:12], atol=1e-5)
    points = read_points(folder / "moved/points.csv")
    np.testing.assert_allclose(points.coordinates, np.array([[8, 8, 10], [10.5, 9, 11]]) - SHIFT, atol=1e-6)
    assert points.names == ["a", "b"]
    assert "moved/scan.nii.gz" in capsys.readouterr().err


def test_and_back_to_the_moving_space(spaces):
    folder, _, moving = spaces
    run("apply", folder / "out", folder / "labels.nii.gz", folder / "points.csv", "-o", folder / "there", "--quiet")
    assert (
        run("apply", folder / "out", folder / "there/labels.nii.gz", folder / "there/points.csv", "-o", folder / "back", "--to", "moving")
        == 0
    )
    back = read_image(folder / "back/labels.nii.gz")
    assert back.grid.matches(moving)
    np.testing.assert_array_equal(back.data[2:13, 0:10, 3:12], read_image(folder / "labels.nii.gz").data[2:13, 0:10, 3:12])
    np.testing.assert_allclose(
        read_points(folder / "back/points.csv").coordinates, read_points(folder / "points.csv").coordinates, atol=1e-6
    )


def test_interpolation_can_be_forced(spaces):
    folder, *_ = spaces
    assert run("apply", folder / "out", folder / "labels.nii.gz", "-o", folder / "moved", "--interpolation", "linear") == 0
    assert read_image(folder / "moved/labels.nii.gz").data.dtype == np.float32


def test_integer_scans_are_pointed_at(spaces, capsys):
    folder, _, moving = spaces
    write_image(Image(np.arange(np.prod(moving.shape), dtype=np.int16).reshape(moving.shape), moving), folder / "ct.nii.gz")
    assert run("apply", folder / "out", folder / "ct.nii.gz", "-o", folder / "moved") == 0
    assert "--interpolation linear" in capsys.readouterr().err


def test_bare_transform(spaces):
    folder, fixed, moving = spaces
    vectors = np.zeros((3, *fixed.shape), np.float32)
    vectors[1] = 1.5 * np.sin(np.arange(14) / 2)[None, :, None]
    matrix = np.eye(4)
    matrix[:3, 3] = SHIFT
    transform = Composite([Affine(matrix), DisplacementField(fixed, vectors)])
    save_transform(transform, folder / "bare.h5")
    write_image(Image(np.zeros(fixed.shape, np.float32), fixed), folder / "reference.nii.gz")
    inputs = [folder / "scan.nii.gz", folder / "points.csv"]
    assert run("apply", folder / "bare.h5", *inputs, "-o", folder / "moved", "--reference", folder / "reference.nii.gz") == 0
    wanted = resample(read_image(folder / "scan.nii.gz"), fixed, transform)
    np.testing.assert_allclose(read_image(folder / "moved/scan.nii.gz").data, wanted.data, atol=1e-5)
    moved = read_points(folder / "moved/points.csv").coordinates
    np.testing.assert_allclose(transform.apply(moved), read_points(folder / "points.csv").coordinates, atol=2e-3)
    assert run("apply", folder / "bare.h5", folder / "moved/points.csv", "-o", folder / "back", "--to", "moving") == 0
    np.testing.assert_allclose(
        read_points(folder / "back/points.csv").coordinates, read_points(folder / "points.csv").coordinates, atol=2e-3
    )


def test_2d_pictures_keep_their_format(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    grid = Grid((20, 24), np.eye(3))
    matrix = np.eye(3)
    matrix[:2, 2] = [3, 0]
    save_transform(Composite([Affine(matrix)]), out / "xfm.h5")
    save_transform(Composite([Affine(matrix).inverse()]), out / "xfm_inverse.h5")
    shape = {"shape": grid.shape, "affine": grid.affine.tolist()}
    (out / "run.json").write_text(json.dumps({"grids": {"fixed": shape, "moving": shape}}))
    data = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), grid.shape)
    write_image(Image(data, grid), tmp_path / "mask.png")
    for way in ("auto", "linear"):
        assert run("apply", out, tmp_path / "mask.png", "-o", tmp_path / way, "--interpolation", way) == 0
        moved = read_image(tmp_path / way / "mask.png").data
        assert moved.dtype == np.uint8
        np.testing.assert_array_equal(moved[:17], data[3:])


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("out", "labels.nii.gz"), 2, "-o DIR"),
        (("out", "-o", "moved"), 2, "nothing to move"),
        (("out", "none.nii.gz", "-o", "moved"), 3, "no such file"),
        (("out", "labels.nii.gz", "-o", "."), 2, "is an input itself"),
        (("out", "labels.nii.gz", "sub/labels.nii.gz", "-o", "moved"), 2, "two inputs are called labels.nii.gz"),
        (("out", "labels.nii.gz", "-o", "points.csv"), 2, "is a file"),
        ((".", "labels.nii.gz", "-o", "moved"), 3, "not the output of regkit register"),
        (("out/xfm.h5", "labels.nii.gz", "-o", "moved"), 2, "--reference"),
        (("out/xfm.h5", "labels.nii.gz", "-o", "moved", "--to", "moving"), 2, "give OUT"),
        (("labels.nii.gz", "points.csv", "-o", "moved"), 3, "labels.nii.gz"),
    ],
)
def test_mistakes(spaces, capsys, monkeypatch, arguments, code, told):
    monkeypatch.chdir(spaces[0])
    (spaces[0] / "sub").mkdir()
    (spaces[0] / "sub/labels.nii.gz").write_bytes((spaces[0] / "labels.nii.gz").read_bytes())
    assert run("apply", *arguments) == code
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and error.startswith("regkit: ")
    assert not (spaces[0] / "moved").exists() or not any((spaces[0] / "moved").iterdir())


def test_damaged_run_json(spaces, capsys):
    folder, *_ = spaces
    (folder / "out/run.json").write_text("{")
    assert run("apply", folder / "out", folder / "points.csv", "-o", folder / "moved") == 3
    assert "damaged" in capsys.readouterr().err
