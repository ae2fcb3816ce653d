"""Manifests: what they hold, which pairs follow from them, and what they say when they are wrong."""

from itertools import permutations
from pathlib import Path

import pytest

from regkit.data import Case, Manifest, Pairs, read_manifest, write_manifest
from regkit.errors import InputError, UsageError


def manifest(folder: Path, text: str, files: str = "a.nii.gz b.nii.gz c.nii.gz") -> Path:
    for name in files.split():
        (folder / name).touch()
    path = folder / "data.csv"
    path.write_text(text)
    return path


def test_columns_and_defaults(tmp_path):
    text = "\ufeffimage, name,split,group,role,label\na.nii.gz,,,,,\nb.nii.gz,second,val,p1,Fixed,c.nii.gz\n\nc.nii.gz,,TEST,p1,moving,\n"
    found = read_manifest(manifest(tmp_path, text))
    assert found.cases == (
        Case("a", tmp_path / "a.nii.gz"),
        Case("second", tmp_path / "b.nii.gz", tmp_path / "c.nii.gz", split="validation", group="p1", role="fixed"),
        Case("c", tmp_path / "c.nii.gz", split="test", group="p1", role="moving"),
    )
    assert [case.name for case in found.split("validation")] == ["second"]
    with pytest.raises(UsageError, match="no split 'val'; there are train, validation, test"):
        found.split("val")


def test_written_manifest_reads_back(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = manifest(tmp_path, "image,name,role,group\na.nii.gz,x,fixed,p\nb.nii.gz,y,,\n")
    found = read_manifest(path)
    for copy in (tmp_path / "copy.csv", folder / "copy.csv"):
        write_manifest(found, copy)
        assert read_manifest(copy).cases == found.cases
    assert (tmp_path / "copy.csv").read_text().splitlines()[1] == "x,a.nii.gz,train,p,fixed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,lable\na.nii.gz,\n", "row 1: unknown column 'lable'; did you mean label?"),
        ("image,zzz\na.nii.gz,\n", "row 1: unknown column 'zzz'; there are name, image, label"),
        ("name,split\nx,train\n", "row 1: there is no column image among name, split"),
        ("image;split\na.nii.gz;train\n", "row 1: columns are separated by ;; separate them by commas"),
        ("image,image\na.nii.gz,b.nii.gz\n", "row 1: column image comes 2 times"),
        ("image,split\na.nii.gz,trian\n", "row 2: split is 'trian'; did you mean train?"),
        ("image,role\na.nii.gz,\nb.nii.gz,target\n", "row 3: role is 'target'; it must be fixed, moving, both or blank"),
        ("image,label\na.nii.gz,none.nii.gz\n", "none.nii.gz does not exist; mend the path"),
        ("image,split\na.nii.gz\n", "row 2: 1 cells where the header has 2 columns"),
        ("image,name\na.nii.gz,x\nb.nii.gz,x\n", "row 3: the name x is that of row 2, too"),
        ("image,name\n,x\n", "row 2: the image is blank"),
        ("image\n", "has a header but no rows"),
        ("", "is empty; it needs a header"),
        ("image,split\na.nii.gz,x\nb.nii.gz,y\n", r"\(1 more problems: regkit data .* lists them\)"),
    ],
)
def test_errors_say_where_and_what(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(manifest(tmp_path, text))
    assert str(tmp_path / "data.csv") in str(caught.value) and "\n" not in str(caught.value)


def test_no_manifest_and_no_text(tmp_path):
    with pytest.raises(InputError, match="none.csv: No such file or directory; give a CSV file"):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00image")
    with pytest.raises(InputError, match="x.csv is not a text file"):
        read_manifest(tmp_path / "x.csv")


def cases(*rows: tuple[str, str]) -> tuple[Case, ...]:
    return tuple(Case(f"{n}", Path(f"{n}"), group=group, role=role) for n, (group, role) in enumerate(rows))


def test_pairs_are_all_that_groups_and_roles_allow():
    found = cases(("p", "both"), ("q", "both"), ("p", "fixed"), ("p", "moving"), ("q", "moving"), ("p", "both"), ("r", "both"))
    wanted = [
        (i, j)
        for i, j in permutations(range(len(found)), 2)
        if found[i].group == found[j].group and found[i].role != "moving" and found[j].role != "fixed"
    ]
    assert list(Pairs(found)) == wanted
    assert list(Manifest(found).pairs("train")) == wanted and len(Manifest(found).pairs("test")) == 0
    assert list(Pairs(cases(*[("", "both")] * 4))) == list(permutations(range(4), 2))
    assert len(Pairs(cases(("p", "both"), ("q", "both")))) == 0
    with pytest.raises(IndexError):
        Pairs(found)[len(wanted)]
