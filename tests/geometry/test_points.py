"""Landmark files: the same points through every format, whichever world the file counts in; errors name file and line."""

import json

import numpy as np
import pytest

from regkit.errors import InputError
from regkit.geometry import Points, read_points, write_points


@pytest.fixture
def points() -> Points:
    return Points(np.random.default_rng(0).normal(size=(5, 3)) * 70, ["apex", 'a "b"', "c, d", "", "é"])


@pytest.mark.parametrize("name", ["p.csv", "p.fcsv", "p.mrk.json", "p.txt"])
def test_round_trip(name, points, tmp_path):
    points.save(tmp_path / name)
    back = read_points(tmp_path / name)
    np.testing.assert_array_equal(back.coordinates, points.coordinates)
    assert back.names == (None if name == "p.txt" else points.names)


@pytest.mark.parametrize("name", ["p.csv", "p.txt"])
def test_two_dimensions(name, tmp_path):
    flat = Points(np.array([[1.5, -2.25], [3.0, 4.0]]))
    write_points(flat, tmp_path / name)
    np.testing.assert_array_equal(read_points(tmp_path / name).coordinates, flat.coordinates)
    assert "1.5" in (tmp_path / name).read_text()  # ITK's coordinates as they are


def test_all_formats_agree(tmp_path):
    texts = {
        "a.csv": "id,X,Y,Z,label\n7,10,-20,30,left\n8,1,2,3,right\n",
        "ras.fcsv": "# Markups fiducial file version = 4.10\n# CoordinateSystem = RAS\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        "1,10,-20,30,0,0,0,1,1,1,0,left,,\n2,1,2,3,0,0,0,1,1,1,0,right,,\n",
        "old.fcsv": "# CoordinateSystem = 0\n1,10,-20,30,0,0,0,1,1,1,0,left,,\n2,1,2,3,0,0,0,1,1,1,0,right,,\n",
        "lps.fcsv": "# CoordinateSystem = LPS\n1,-10,20,30,0,0,0,1,1,1,0,left,,\n2,-1,-2,3,0,0,0,1,1,1,0,right,,\n",
        "e.txt": "point\n2\n-10 20 30\n-1 -2 3\n",
        "lps.mrk.json": markups("LPS", [[-10, 20, 30], [-1, -2, 3]]),
        "ras.mrk.json": markups("RAS", [[10, -20, 30], [1, 2, 3]]),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        back = read_points(tmp_path / name)
        np.testing.assert_array_equal(back.coordinates, [[10, -20, 30], [1, 2, 3]], err_msg=name)
        assert back.names in (None, ["left", "right"])
    assert read_points(tmp_path / "a.csv").extra == {"id": ["7", "8"]}


def markups(system, positions) -> str:
    control = [{"id": str(i), "label": label, "position": p} for i, (label, p) in enumerate(zip(("left", "right"), positions))]
    return json.dumps({"markups": [{"type": "Fiducial", "coordinateSystem": system, "controlPoints": control}]})


def test_csv_keeps_other_columns(tmp_path):
    (tmp_path / "a.csv").write_text("\ufeffx,y,z,observer,name\n1,2,3,A,p\n\n4,5,6,B,q\n", encoding="utf-8")
    points = read_points(tmp_path / "a.csv")
    write_points(Points(points.coordinates + 1, points.names, points.extra), tmp_path / "b.csv")
    again = read_points(tmp_path / "b.csv")
    assert again.names == ["p", "q"] and again.extra == {"observer": ["A", "B"]}
    np.testing.assert_array_equal(again.coordinates, [[2, 3, 4], [5, 6, 7]])


def test_elastix_indices_need_their_grid(fixed_grid, flat_grid, tmp_path):
    (tmp_path / "i.txt").write_text("index\n2\n1 2 3\n4 5 6\n")
    np.testing.assert_allclose(read_points(tmp_path / "i.txt", fixed_grid).coordinates, fixed_grid.to_world([[1, 2, 3], [4, 5, 6]]))
    with pytest.raises(InputError, match="need the grid"):
        read_points(tmp_path / "i.txt")
    with pytest.raises(InputError, match="3-D indices"):
        read_points(tmp_path / "i.txt", flat_grid)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "1,2,3\n4,5,6\n", "line 1: .*add the line x,y,z"),
        ("a.csv", "", "line 1"),
        ("a.csv", "x,y,z\n", "no points"),
        ("a.csv", "x,y,z\n1,2,3\n1,two,3\n", "line 3: '1,two,3' are not numbers"),
        ("a.csv", "x,y,z\n1,2,3\n1,2\n", "line 3: 2 columns where the header has 3"),
        ("a.csv", "x,y,z\n\n1,2,nan\n", "line 3: .*not finite"),
        ("a.fcsv", "1,2,3,4\n", "says RAS or LPS"),
        ("a.fcsv", "# CoordinateSystem = IJK\n1,2,3,4\n", "'IJK' is not known"),
        ("a.fcsv", "# CoordinateSystem = LPS\n1,2,3\n", "line 2: has no x, y and z"),
        ("a.fcsv", "# CoordinateSystem = LPS\n1,a,2,3\n", "line 2: .*not numbers"),
        ("a.mrk.json", '{"markups": [\n{]}', "line 2: not JSON"),
        ("a.mrk.json", "[]", 'no "markups"'),
        ("a.mrk.json", '{"markups": [{"coordinateSystem": "LPS", "controlPoints": [{"label": "p"}]}]}', "control point 1 has no position"),
        ("a.mrk.json", '{"markups": [{"controlPoints": [{"position": [1, 2, 3]}]}]}', "'missing' is not known"),
        ("a.txt", "1 2 3\n", 'line 1: .*starts with "point"'),
        ("a.txt", "point\n1 2 3\n", "line 2: the number of points is missing"),
        ("a.txt", "point\n3\n1 2 3\n", "line 2: says 3 points, 1 follow"),
        ("a.txt", "point\n2\n1 2 3\n1 2\n", "line 4: 2 values"),
        ("a.txt", "point\n1\n1 2 x\n", "line 3: .*not numbers"),
        ("a.vtk", "x", "unknown landmark format"),
    ],
)
def test_errors_name_file_and_line(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_points(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_other_errors(tmp_path, points):
    with pytest.raises(InputError, match="no such file"):
        read_points(tmp_path / "missing.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="not a text file"):
        read_points(tmp_path / "binary.csv")
    with pytest.raises(InputError, match="unknown landmark format"):
        points.save(tmp_path / "a.vtk")
    with pytest.raises(InputError, match="3-D"):
        Points(np.zeros((2, 2))).save(tmp_path / "a.fcsv")
    with pytest.raises(InputError, match=r"\(N, 2\) or \(N, 3\)"):
        Points(np.zeros((2, 4)))
    with pytest.raises(InputError, match="as many names, got 1"):
        Points(np.zeros((2, 3)), ["a"])
