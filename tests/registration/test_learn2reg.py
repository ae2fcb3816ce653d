"""A registration handed in as Learn2Reg's field, and measured there as here; and how a task is read."""

import json

import numpy as np
import pytest

from regkit.cli import main
from regkit.errors import InputError, UsageError
from regkit.geometry import Affine, Composite, DisplacementField, Grid, Image, write_image
from regkit.registration.config import Config
from regkit.registration.learn2reg_task import Method, Pair
from regkit.registration.result import Record, Result

SHAPE = (24, 20, 22)


@pytest.fixture
def scene(tmp_path):
    """(result, fixed labels, moving labels) of two scans in files, whose labels stay off the border."""
    grid = Grid(SHAPE, np.diag([1.5, 2.0, 2.5, 1.0]))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1)
    labels = []
    for shift in (0, 1):
        far = np.linalg.norm(index - np.array(SHAPE) / 2 - shift, axis=-1)
        labels.append(Image(np.digitize(-far, [-7, -4]).astype(np.uint8), grid))
    images = [Image(part.data.astype(np.float32), grid) for part in labels]
    for directory, parts in (("imagesTr", images), ("labelsTr", labels)):
        for modality, part in enumerate(parts):
            write_image(part, tmp_path / directory / f"Toy_0001_000{modality}.nii.gz")
    vectors = np.stack([np.sin(index.sum(-1) / 5) * 2 + 1, np.cos(index[..., 0] / 4) * 2, np.full(SHAPE, 2.0)])
    matrix = np.eye(4)
    matrix[:3, 3] = 1, 1, 0
    transform = Composite([Affine(matrix), DisplacementField(grid, vectors)])
    paths = {name: {"path": str(tmp_path / f"imagesTr/Toy_0001_000{n}.nii.gz")} for n, name in enumerate(("fixed", "moving"))}
    record = Record(inputs=paths)
    return Result(images[0], images[1], images[1], transform, transform, Config(), record), *labels


@pytest.mark.parametrize("half", [False, True])
def test_dice_there_is_dice_here(scene, tmp_path, capsys, half):
    result, fixed, moving = scene
    path = result.save(tmp_path / "fields", format="l2r", half=half)
    assert path == tmp_path / "fields" / f"disp_0001_0001{'.npz' if half else '.nii.gz'}" and path.is_file()
    config = {"name": "Toy", "tensorImageShape": {"0": list(SHAPE)}}
    config["registration_val"] = [{"fixed": "./imagesTr/Toy_0001_0000.nii.gz", "moving": "./imagesTr/Toy_0001_0001.nii.gz"}]
    (tmp_path / "Toy_dataset.json").write_text(json.dumps(config))
    assert main(["eval", "--learn2reg", str(tmp_path / "Toy_dataset.json"), "--fields", str(tmp_path / "fields"), "--json"]) == 0
    there = json.loads(capsys.readouterr().out)["cases"]["0001_0000<--0001_0001"]["DSC"]["detailed"]
    here = [values["dice"] for values in result.evaluate(fixed, moving)["labels"].values()]
    assert 0.5 < min(here) < max(here) < 1
    np.testing.assert_allclose(there, here, atol=0.02 if half else 2e-3)  # ties of the nearest voxel; what half a resolution loses


def test_names_that_nothing_tells(scene, tmp_path):
    result, *_ = scene
    result.record.inputs = {}
    with pytest.raises(UsageError, match="add case="):
        result.save(tmp_path / "fields", format="l2r")
    assert result.save(tmp_path / "fields", format="l2r", case=("0003", "0004")).name == "disp_0003_0004.nii.gz"
    with pytest.raises(UsageError, match="go with"):
        result.save(tmp_path / "out", half=True)
    with pytest.raises(UsageError, match='"run" or "l2r"'):
        result.save(tmp_path / "out", format="ants")
    assert not (tmp_path / "out").exists()


def test_register_refuses_scans_without_a_name_before_it_starts(scene, tmp_path, capsys, monkeypatch):
    import regkit.registration

    result, *_ = scene
    calls = []

    def register(*scans, progress, **options):
        calls.append(scans)
        return result

    monkeypatch.setattr(regkit.registration, "register", register)
    write_image(result.fixed, tmp_path / "fixed.nii.gz")
    scans = [result.record.inputs[name]["path"] for name in ("fixed", "moving")]
    options = ["-o", str(tmp_path / "out"), "--learn2reg", str(tmp_path / "fields"), "--quiet"]
    assert main(["register", "-f", str(tmp_path / "fixed.nii.gz"), "-m", scans[1], *options]) == 3
    assert "NAME_SSSS_MMMM.nii.gz" in capsys.readouterr().err and not calls
    monkeypatch.setattr("regkit.registration.save.save_result", lambda result, out: out)
    assert main(["register", "-f", scans[0], "-m", scans[1], *options]) == 0
    assert [path.name for path in (tmp_path / "fields").iterdir()] == ["disp_0001_0001.nii.gz"]


def test_where_landmarks_of_two_modalities_lie():
    method = Method("TRE", "tre", dest="keypoints")
    for modalities, directory in (((0, 1), "keypointsTr"), ((2, 2), "keypointsTr"), ((1, 0), "keypoints00000001Tr")):
        pair = Pair(*(f"./imagesTr/T_0001_{modality:04d}.nii.gz" for modality in modalities))
        assert pair.points(method)[0] == f"./{directory}/T_0001_{modalities[0]:04d}.csv"
    with pytest.raises(InputError, match="subject and modality"):
        Pair("a.nii.gz", "b.nii.gz").points(method)
