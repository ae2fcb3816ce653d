"""Learn2Reg's displacement files, written and read."""

import nibabel
import numpy as np
import pytest
from scipy.ndimage import zoom

from regkit.errors import InputError
from regkit.geometry import Affine, Composite, DisplacementField, Grid, read_learn2reg, total_displacement, write_learn2reg
from regkit.geometry.learn2reg import learn2reg_case, learn2reg_name

SHAPE = (16, 12, 20)


@pytest.fixture
def scene():
    """(transform, fixed grid, moving grid): a smooth field after an affine, between anisotropic grids."""
    fixed = Grid(SHAPE, np.diag([1.5, 2.0, 2.5, 1.0]))
    moving = Grid(SHAPE, np.array([[0, 2, 0, 3], [1.5, 0, 0, -2], [0, 0, 2.5, 1], [0, 0, 0, 1.0]]))
    index = np.stack(np.meshgrid(*(np.linspace(0, np.pi, n) for n in SHAPE), indexing="ij"))
    vectors = 3 * np.sin(index).prod(0) * np.array([1, -0.5, 2]).reshape(3, 1, 1, 1)
    matrix = np.eye(4)
    matrix[:3, 3] = 1, 2, -1
    return Composite([Affine(matrix), DisplacementField(fixed, vectors)]), fixed, moving


@pytest.mark.parametrize("suffix", [".nii.gz", ".npz"])
def test_full_resolution(scene, tmp_path, suffix):
    transform, fixed, moving = scene
    write_learn2reg(tmp_path / f"disp{suffix}", *scene)
    field = read_learn2reg(tmp_path / f"disp{suffix}", SHAPE)
    index = np.array(np.unravel_index(np.arange(np.prod(SHAPE)), SHAPE)).T
    expected = moving.to_index(transform.apply(fixed.to_world(index)))
    np.testing.assert_allclose(index + field.reshape(-1, 3), expected, atol=1e-3)
    assert field.dtype == (np.float64 if suffix == ".nii.gz" else np.float32)  # as the evaluation computes on


def test_nifti_is_what_their_reader_takes(scene, tmp_path):
    write_learn2reg(tmp_path / "disp.nii.gz", *scene)
    stored = nibabel.load(tmp_path / "disp.nii.gz")
    assert stored.shape == (*SHAPE, 3) and stored.get_data_dtype() == np.float32
    np.testing.assert_allclose(stored.affine, scene[1].affine)


def test_half_resolution_of_2020(scene, tmp_path):
    write_learn2reg(tmp_path / "disp.npz", *scene, half=True)
    with np.load(tmp_path / "disp.npz") as arrays:
        (stored,) = arrays.values()
    full = total_displacement(*scene)[0].numpy()
    assert stored.dtype == np.float16 and stored.shape == (3, 8, 6, 10)
    expected = [zoom(component, 0.5, order=2).astype(np.float16) for component in full]  # values stay in full voxels
    np.testing.assert_array_equal(stored, expected)
    field = read_learn2reg(tmp_path / "disp.npz", SHAPE)
    np.testing.assert_array_equal(field, np.stack([zoom(c.astype(np.float32), 2, order=2) for c in expected], -1))


def test_full_size_of_2020(tmp_path):
    stored = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float16)
    np.savez(tmp_path / "disp.npz", stored)
    np.testing.assert_array_equal(read_learn2reg(tmp_path / "disp.npz", SHAPE), np.moveaxis(stored, 0, -1).astype(np.float32))


def bad(folder, kind):
    path = folder / ("disp.npz" if "npz" in kind else "disp.nii.gz")
    field = np.zeros((*SHAPE, 3), np.float32)
    if kind == "shape":
        nibabel.save(nibabel.Nifti1Image(field[:-1], np.eye(4)), path)
    elif kind == "itk":
        nibabel.save(nibabel.Nifti1Image(field[..., None, :], np.eye(4)), path)
    elif kind == "nan":
        field[3, 4, 5, 1] = np.nan
        nibabel.save(nibabel.Nifti1Image(field, np.eye(4)), path)
    elif kind == "cut":
        nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).normal(size=field.shape), np.eye(4)), path)
        path.write_bytes(path.read_bytes()[:9000])
    elif kind == "text":
        path.write_text("no image")
    elif kind == "npz two":
        np.savez(path, a=field, b=field)
    elif kind == "npz shape":
        np.savez(path, field[:-1])
    elif kind == "npz dtype":
        np.savez(path, field.astype(complex))
    elif kind == "npz object":
        np.savez(path, np.array([{}], dtype=object))
    elif kind == "npz cut":
        np.savez(path, field)
        path.write_bytes(path.read_bytes()[:9000])
    return path


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("shape", r"has shape \(15, 12, 20, 3\) and dtype float32, but this task needs \(X, Y, Z, 3\) = \(16, 12, 20, 3\) float32"),
        ("itk", "looks like an ITK field in mm"),
        ("nan", "1 values are NaN or infinite"),
        ("cut", "ended before"),
        ("text", "not a readable image"),
        ("npz two", "holds 2 arrays"),
        ("npz shape", r"has shape \(15, 12, 20, 3\).* or float16 \(3, 8, 6, 10\) of 2020"),
        ("npz dtype", "dtype complex"),
        ("npz object", "dtype object"),
        ("npz cut", "not a readable .npz"),
    ],
)
def test_bad_files_are_named(tmp_path, kind, told):
    path = bad(tmp_path, kind)
    with pytest.raises(InputError, match=told) as caught:
        read_learn2reg(path, SHAPE)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_written(scene, tmp_path):
    transform, fixed, moving = scene
    with pytest.raises(InputError, match="go into .nii.gz or .npz"):
        write_learn2reg(tmp_path / "disp.h5", *scene)
    with pytest.raises(InputError, match="half resolution goes into .npz"):
        write_learn2reg(tmp_path / "disp.nii.gz", *scene, half=True)
    with pytest.raises(InputError, match="even sizes"):
        write_learn2reg(tmp_path / "disp.npz", transform, fixed.crop((0, 0, 0), (15, 12, 20)), moving, half=True)
    assert not list(tmp_path.iterdir())


def test_names():
    assert learn2reg_case("a/Lung_0012_0001.nii.gz") == ("0012", "0001")
    assert learn2reg_name("Lung_0012_0000.nii.gz", "Lung_0013_0001.nii.gz") == "disp_0012_0013"
    assert learn2reg_name("Lung_0012_0000.nii.gz", "Lung_0013_0000.nii.gz") == "disp_0012_0000_0013_0000"
    assert learn2reg_name("Lung_0012_0000.nii.gz", "Lung_0013_0000.nii.gz", half=True) == "disp_0012_0013"
    with pytest.raises(InputError, match="NAME_SSSS_MMMM"):
        learn2reg_name("fixed.nii.gz", "Lung_0013_0000.nii.gz")
