"""What cannot be registered is refused in one line that says why, by the library and by the command line alike, before any work is done."""

import nibabel
import numpy as np
import pytest

from regkit.cli import main
from regkit.errors import InputError
from regkit.geometry import Grid, Image, write_image
from regkit.registration import register
from tests.registration.anatomy import Anatomy, grid_at

GRID = grid_at((24, 22, 20), 4.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A good scan and every kind of bad one."""
    folder = tmp_path_factory.mktemp("inputs")
    good = Anatomy().scan(GRID)
    write_image(good, folder / "good.nii.gz")
    affine = GRID.affine

    def nifti(name, data, sform=affine, qform=affine):
        image = nibabel.Nifti1Image(data, affine)
        image.set_sform(sform, 1)
        image.set_qform(qform, 1)
        nibabel.save(image, folder / f"{name}.nii.gz")

    moved = affine.copy()
    moved[0, 3] += 5
    nifti("contradiction", good.data, qform=moved)
    spoilt = good.data.copy()
    spoilt[3, 4, 5] = np.nan
    nifti("nan", spoilt)
    spoilt[3, 4, 5] = np.inf
    nifti("inf", spoilt)
    nifti("constant", np.full(GRID.shape, 7, np.int16))
    nifti("series", np.stack([good.data] * 3, -1))
    nifti("series1", good.data[..., None])
    nifti("complex", good.data.astype(np.complex64))
    nifti("thin", good.data[:, :, :2])
    (folder / "empty.nii.gz").write_bytes(b"")
    (folder / "text.nii.gz").write_text("hello")
    raw = (folder / "good.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(raw[: len(raw) // 2])
    (folder / "dicom").mkdir()
    write_image(Image((np.random.default_rng(0).random((40, 30)) * 255).astype(np.uint8), Grid.from_spacing((40, 30))), folder / "flat.png")
    write_image(Image(np.zeros(GRID.shape, np.uint8), GRID), folder / "mask_empty.nii.gz")
    write_image(Image(np.ones(GRID.shape, np.uint8), grid_at(GRID.shape, 4.0, centre=(900, 0, 0))), folder / "mask_away.nii.gz")
    write_image(Image(np.ones((40, 30), np.uint8), Grid.from_spacing((40, 30))), folder / "mask_flat.png")
    return folder


BAD = [
    ({"moving": "contradiction.nii.gz"}, "--header sform or --header qform"),
    ({"moving": "nan.nii.gz"}, "moving: 1 voxels are NaN or infinite"),
    ({"fixed": "inf.nii.gz"}, "fixed: 1 voxels are NaN or infinite"),
    ({"fixed": "constant.nii.gz"}, "fixed: every voxel is 7"),
    ({"moving": "series.nii.gz"}, "holds 3 volumes"),
    ({"moving": "complex.nii.gz"}, "complex voxels"),
    ({"moving": "thin.nii.gz"}, "too small"),
    ({"moving": "empty.nii.gz"}, "empty.nii.gz"),
    ({"moving": "text.nii.gz"}, "text.nii.gz"),
    ({"moving": "cut.nii.gz"}, "cut.nii.gz"),
    ({"moving": "dicom"}, "no DICOM series"),
    ({"moving": "missing.nii.gz"}, "no such file"),
    ({"moving": "flat.png"}, "fixed is 3-D and moving 2-D"),
    ({"fixed_mask": "mask_empty.nii.gz"}, "fixed mask: is empty"),
    ({"moving_mask": "mask_away.nii.gz"}, "moving mask: no foreground voxel lies inside its scan"),
    ({"fixed_mask": "mask_flat.png"}, "fixed mask: is 2-D"),
    ({"fixed_mask": "missing.nii.gz"}, "fixed mask: no such file"),
]


@pytest.mark.parametrize(("bad", "told"), BAD, ids=[" ".join(bad.values()) for bad, _ in BAD])
def test_one_line(folder, tmp_path, capsys, bad, told):
    files = {name: folder / file for name, file in ({"fixed": "good.nii.gz", "moving": "good.nii.gz"} | bad).items()}
    with pytest.raises(InputError) as caught:
        register(**files)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    options = [part for name, file in files.items() for part in (f"--{name.replace('_', '-')}", str(file))]
    assert main(["register", *options, "-o", str(tmp_path / "out"), "--quiet"]) == 3
    told_there = capsys.readouterr()
    assert told in told_there.err and told_there.err.count("\n") == 1 and not told_there.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("scan", "told"),
    [
        (np.zeros((8, 8, 8)), "moving: every voxel is 0"),
        (np.full((8, 8, 8), np.nan, np.float32), "moving: 512 voxels are NaN"),
        (np.zeros((2, 3, 4, 5)), "2 or 3 axes"),
        (np.zeros((0, 3, 4)), "no voxels"),
        ((np.random.rand(8, 8, 8), np.zeros((4, 4))), "affine"),
        ((np.random.rand(8, 8, 8), np.diag([1.0, 1, 0, 1])), "singular"),
        ((np.random.rand(8, 8, 8), np.eye(4), 3), "a tuple must be"),
        (np.random.rand(8, 8, 8).astype(complex), "complex"),
        (None, "NoneType"),
        ([[1, 2], [3, 4]], "list"),
    ],
)
def test_arrays_too(scan, told):
    with pytest.raises(InputError) as caught:
        register(np.random.default_rng(0).random((8, 8, 8)), scan)
    assert told in str(caught.value) and "moving" in str(caught.value) and "\n" not in str(caught.value)


def test_the_header_option_settles_a_contradiction(folder):
    found = {
        way: register(folder / "good.nii.gz", folder / "contradiction.nii.gz", header=way, preset="mr-brain") for way in ("sform", "qform")
    }
    shift = [float(np.mean(result.transform.apply(GRID.center[None]) - GRID.center, 0)[0]) for result in found.values()]
    assert shift == pytest.approx([0.0, 5.0], abs=0.3)


def test_a_single_volume_of_a_series_is_a_scan(folder):
    assert register(folder / "good.nii.gz", folder / "series1.nii.gz", preset="mr-brain").moving.grid.shape == GRID.shape
