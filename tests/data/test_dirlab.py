"""DIR-Lab's files: names, sizes, Hounsfield units, landmarks counted from 1; what is wrong with a file is told."""

import numpy as np
import pytest

from regkit.data import dirlab, phantom
from regkit.errors import InputError, UsageError
from tests import dirlab_files

SHAPE = (40, 40, 30)


@pytest.fixture(scope="module")
def made():
    return phantom(SHAPE, spacing=(8.4, 7.0, 10.7), landmarks=20, motion_mm=15)


@pytest.fixture
def root(tmp_path, monkeypatch, made):
    dirlab_files.shrink(monkeypatch, SHAPE, 8.4, 10.7)
    for which, number in dirlab_files.NAMES:
        dirlab_files.write(tmp_path, which, number, made)
    return tmp_path


def test_tables_are_the_published_ones():
    """Volumes of the size that the files have: 2 bytes a voxel."""
    assert [2 * np.prod(dirlab.grid_of("4dct", n).shape) for n in (1, 6)] == [12320768, 67108864]
    assert dirlab.grid_of("copd", 2).shape == (512, 512, 102)
    assert dirlab.grid_of("copd", 4).spacing == pytest.approx((0.59, 0.59, 2.5))
    with pytest.raises(UsageError, match="cases 1 to 10"):
        dirlab.grid_of("4dct", 11)


@pytest.mark.parametrize(("which", "number"), dirlab_files.NAMES)
def test_reads_scans_and_landmarks(root, made, which, number):
    case = dirlab.read_dirlab(root, which, number)
    assert np.array_equal(case.fixed.data, np.maximum(np.asarray(made.fixed.data).round(), -1024))
    assert case.fixed.grid == case.moving.grid == dirlab.grid_of(which, number)
    index = made.fixed.grid.to_index(made.fixed_points.coordinates)
    assert np.abs(case.fixed.grid.to_index(case.fixed_points.coordinates) - index).max() <= 0.5 + 1e-9
    assert len(case.moving_points) == 20
    swapped = dirlab.read_dirlab(root, which, number, fixed="exhale")
    assert np.array_equal(swapped.moving.data, case.fixed.data)
    assert np.array_equal(swapped.fixed_points.coordinates, case.moving_points.coordinates)


def test_what_is_there(root):
    assert dirlab.available(root, "4dct") == [1, 6]
    assert dirlab.available(root, "copd") == [10]


def test_messages(root, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        dirlab.read_dirlab(tmp_path / "nowhere", "4dct", 1)
    with pytest.raises(InputError, match="no file below"):
        dirlab.read_dirlab(root, "4dct", 2)
    with pytest.raises(UsageError, match="inhale or exhale"):
        dirlab.read_dirlab(root, "4dct", 1, fixed="T00")
    volume = root / "Case1Pack/Images/case1_T00_s.img"
    volume.write_bytes(volume.read_bytes()[:-2])
    with pytest.raises(InputError, match=r"case1_T00_s.img: has 95998 bytes, but 40x40x30 voxels of int16 are 96000"):
        dirlab.read_dirlab(root, "4dct", 1)
    points = root / "Case6Pack/ExtremePhases/case6_dirLab300_T00_xyz.txt"
    for text, told in (
        ("1 2\n", "need 3 numbers"),
        ("1 2 x\n", "not a list of landmarks"),
        ("0 2 3\n", "counted from 1"),
        ("41 2 3\n", "up to"),
        ("nan 2 3\n", "counted from 1"),
    ):
        points.write_text(text)
        with pytest.raises(InputError, match=told):
            dirlab.read_dirlab(root, "4dct", 6)
    points.write_text("1 2 3\n")
    with pytest.raises(InputError, match="1 landmarks in the fixed scan, but 20"):
        dirlab.read_dirlab(root, "4dct", 6)
    (root / "copy").mkdir()
    (root / "copy/copd10_iBHCT.img").write_bytes(b"")
    with pytest.raises(InputError, match="2 files"):
        dirlab.read_dirlab(root, "copd", 10)
