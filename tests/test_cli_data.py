"""regkit data: what it shows of a manifest, and that it lists every problem."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regkit.cli import main
from regkit.geometry import Grid, Image, Points, read_image, write_image, write_points
from regkit.training.lapirn import LapIRNTraining
from tests.data.conftest import blobs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four scans with labels."""
    for n in range(4):
        scan, labels = blobs(Grid.from_spacing((14, 12, 10), 2.0), seed=n)
        write_image(scan, tmp_path / f"scan{n}.nii.gz")
        write_image(labels, tmp_path / f"labels{n}.nii.gz")
    return tmp_path


def manifest(folder: Path, rows: str, header: str = "image,label,split") -> Path:
    path = folder / "data.csv"
    path.write_text(f"{header}\n{rows}\n")
    return path


def labelled(*splits: str) -> str:
    return "\n".join(f"scan{n}.nii.gz,labels{n}.nii.gz,{split}" for n, split in enumerate(splits))


def look(capsys, path: Path, *options: str) -> tuple[int, dict, list[str]]:
    """Exit code, JSON, lines on stderr."""
    code = main(["data", str(path), "--json", "--quiet", *options])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err.splitlines()


def test_a_usable_manifest(folder, capsys):
    path = manifest(folder, labelled("train", "train", "val", "val"))
    code, found, errors = look(capsys, path)
    assert (code, errors, found["usable"], found["problems"], found["notes"]) == (0, [], True, [], [])
    labels = [read_image(folder / f"labels{n}.nii.gz").data for n in range(4)]
    for split, members in (("train", (0, 1)), ("validation", (2, 3))):
        assert found["splits"][split] == {
            "cases": 2,
            "groups": {"": 2},
            "pairs": 2,
            "with": {"label": 2, "mask": 0, "landmarks": 0},
            "labels": {str(v): {"cases": 2, "voxels": int(sum((labels[n] == v).sum() for n in members))} for v in (1, 2, 3)},
        }
    assert found["frame"]["shape"] == [14, 12, 10] and found["frame"]["spacing_mm"] == [[2.0] * 3] * 2
    assert found["frame"]["sample_mb"] == pytest.approx(2 * 5 * 14 * 12 * 10 / 1e6)
    assert found["frame"]["cache_mb"] == pytest.approx(4 * 5 * 14 * 12 * 10 / 1e6)
    case = found["cases"][0]
    assert (case["shape"], case["orientation"], case["dtype"]) == ([14, 12, 10], "RAS", "float32")
    scan = read_image(folder / "scan0.nii.gz").data
    assert case["intensities"][0] == pytest.approx(scan.min()) and case["intensities"][3] == pytest.approx(scan.max())
    assert look(capsys, path, "--split", "validation")[1]["splits"].keys() == {"validation"}

    assert main(["data", str(path), "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "14x12x10 (4)" in shown and "14 x 12 x 10 voxels of 2 x 2 x 2 mm" in shown and shown.rstrip().endswith("usable")


def test_all_problems_at_once(folder, capsys):
    (folder / "text.nii.gz").write_text("no scan")
    scan = read_image(folder / "scan0.nii.gz")
    write_image(replace(scan, data=np.full_like(scan.data, 7)), folder / "flat.nii.gz")
    away = scan.grid.affine.copy()
    away[:3, 3] += 500
    labels = read_image(folder / "labels0.nii.gz")
    write_image(replace(labels, grid=Grid(labels.grid.shape, away)), folder / "away.nii.gz")
    rows = """scan0.nii.gz,labels0.nii.gz,train
text.nii.gz,,train
flat.nii.gz,,train
scan1.nii.gz,away.nii.gz,train
gone.nii.gz,,train
scan2.nii.gz,scan2.nii.gz,trian
scan3.nii.gz,labels3.nii.gz,val"""
    code, found, errors = look(capsys, manifest(folder, rows))
    wanted = (
        "row 6: image",
        "row 7: split is 'trian'; did you mean train?",
        "case text: ",
        "case flat: every voxel is 7.0",
        "case scan1, labels: no foreground voxel lies inside its scan",
        "of the 1 scans of the split validation no two can be paired",
    )
    assert code == 3 and not found["usable"] and len(errors) == len(found["problems"]) == len(wanted)
    for text in wanted:
        assert sum(text in line for line in errors) == 1, text
    assert all(line.startswith("regkit: ") for line in errors)


def test_leaks_and_doubles(folder, capsys):
    copy = read_image(folder / "scan0.nii.gz")
    write_image(replace(copy, data=copy.data.astype(np.float64)), folder / "renamed.nii.gz")
    rows = labelled("train", "train", "val") + "\nrenamed.nii.gz,labels0.nii.gz,val"
    code, found, errors = look(capsys, manifest(folder, rows))
    assert code == 3 and errors == [
        "regkit: cases scan0, renamed hold the same voxels and are in train and validation; what is trained on cannot validate or test"
    ]
    code, found, _ = look(capsys, manifest(folder, labelled("train", "train") + "\nrenamed.nii.gz,labels0.nii.gz,train"))
    assert code == 0 and found["notes"] == ["cases scan0, renamed hold the same voxels"]
    # an atlas that everything is registered to
    atlas = "image,name,split,role\nscan0.nii.gz,a,train,fixed\nscan0.nii.gz,b,val,fixed\nscan1.nii.gz,,train,\nscan2.nii.gz,,val,"
    code, found, _ = look(capsys, manifest(folder, atlas.partition("\n")[2], "image,name,split,role"))
    assert code == 0 and found["notes"] == []
    groups = "scan0.nii.gz,p,train\nscan1.nii.gz,p,train\nscan2.nii.gz,p,val\nscan3.nii.gz,p,val"
    code, found, _ = look(capsys, manifest(folder, groups, "image,group,split"))
    assert code == 0 and "groups p are in more than one split" in found["notes"][0]


def test_notes_on_labels(folder, capsys):
    labels = read_image(folder / "labels1.nii.gz")
    write_image(replace(labels, data=np.where(labels.data == 2, 9, labels.data).astype(np.uint8)), folder / "labels1.nii.gz")
    labels = read_image(folder / "labels2.nii.gz")
    write_image(Image(labels.data[1:], Grid(labels.data[1:].shape, labels.grid.affine)), folder / "labels2.nii.gz")
    write_image(replace(labels, data=np.zeros_like(labels.data)), folder / "labels3.nii.gz")
    rows = labelled("train", "train", "train", "train") + "\nscan3.nii.gz,,val\nscan2.nii.gz,labels1.nii.gz,val"
    rows = "\n".join(f"{row},{n}" for n, row in enumerate(rows.splitlines()))
    _, found, _ = look(capsys, manifest(folder, rows, "image,label,split,name"))
    notes = "\n".join(found["notes"])
    assert "case 2: labels have a grid of their own (shape 13x12x10, the scan 14x12x10)" in notes
    assert "case 3: the label map holds no label above 0" in notes
    assert "train: labels that not all 4 label maps have, and how many do: 1 (3), 2 (2), 3 (3) and 1 more" in notes
    assert "validation: 1 of 2 scans have no label (4); only pairs with two are measured" in notes


def test_landmarks(folder, capsys):
    for n, points in enumerate(([[2, 2, 2], [4, 4, 4]], [[2, 2, 2], [4, 4, 400]], [[2, 2, 2]], [[900, 0, 0], [900, 1, 1]])):
        write_points(Points(np.array(points, dtype=float)), folder / f"p{n}.csv")
    rows = "\n".join(f"scan{n}.nii.gz,p{n}.csv" for n in range(4))
    code, found, errors = look(capsys, manifest(folder, rows, "image,landmarks"))
    assert code == 3 and len(errors) == 2
    assert "case scan3: no landmark lies inside the scan" in errors[0]
    assert "train: scans that are paired have different numbers of landmarks (1 in scan2; 2 in scan0, scan1, scan3)" in errors[1]
    assert found["notes"] == ["case scan1: 1 of 2 landmarks lie outside the scan"]


def test_the_frame_of_a_configuration(folder, capsys):
    path = manifest(folder, labelled("train", "train"))
    (folder / "c.toml").write_text('[data.input]\nshape = [8, 8, 8]\nalign = "centres"\n')
    _, found, _ = look(capsys, path, "--config", str(folder / "c.toml"))
    assert found["frame"]["shape"] == [8, 8, 8]
    for case in found["cases"]:
        data = read_image(folder / f"{case['name']}.nii.gz").data
        inside = (data - data.min()) / (data.max() - data.min()) > 0.02
        assert case["cut"] == pytest.approx(1 - inside[3:11, 2:10, 1:9].sum() / inside.sum(), abs=0.01)
    assert "cuts off more than 1 % of the foreground of scan0, scan1" in found["notes"][0]
    whole = look(capsys, path, "--network", "lapirn")[1]["frame"]["shape"]
    assert whole == [-(-n // LapIRNTraining().multiple) * LapIRNTraining().multiple for n in (14, 12, 10)] != [14, 12, 10]
    (folder / "c.toml").write_text("[input]\nspacng_mm = 1.0\n")
    code, _, errors = look(capsys, path, "--config", str(folder / "c.toml"))
    assert code == 2 and "unknown key input.spacng_mm; did you mean input.spacing_mm?" in errors[0]


def test_no_table(folder, capsys):
    code, _, errors = look(capsys, folder / "none.csv")
    assert code == 3 and len(errors) == 1 and "none.csv: No such file" in errors[0]
    code, _, errors = look(capsys, manifest(folder, labelled("train", "train")), "--split", "test")
    assert code == 3 and "no scan is in the split test" in errors[0]
