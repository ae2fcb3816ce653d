"""Readers and writers: dtype, values and the place in the world survive; what cannot be used is refused in one line."""

import gzip
import locale
import os

import nibabel
import numpy as np
import pytest
import SimpleITK

from regkit.errors import InputError
from regkit.geometry import Grid, Image, check_mask, check_scan, image_to_sitk, read_image
from regkit.geometry.write import atomic_path

DTYPES = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_round_trip(suffix, dtype, ndim, fixed_grid, flat_grid, make_image, tmp_path):
    image = make_image(fixed_grid if ndim == 3 else flat_grid, dtype)
    image.save(tmp_path / f"a{suffix}")
    back = read_image(tmp_path / f"a{suffix}", name="back")
    assert back.name == "back" and back.data.dtype == dtype and back.grid.shape == image.grid.shape
    np.testing.assert_array_equal(back.data, image.data)
    np.testing.assert_allclose(back.grid.affine, image.grid.affine, atol=1e-5)
    there = SimpleITK.ReadImage(os.fspath(tmp_path / f"a{suffix}"))  # and ITK sees the same place
    at = np.arange(1.0, ndim + 1)
    signs = (-1, -1, 1) if ndim == 3 else (1, 1)
    np.testing.assert_allclose(
        np.array(there.TransformContinuousIndexToPhysicalPoint(at.tolist())) * signs, image.grid.to_world(at[None])[0], atol=1e-4
    )


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_bool_becomes_uint8(suffix, fixed_grid, tmp_path):
    mask = Image(np.random.default_rng(0).random(fixed_grid.shape) > 0.5, fixed_grid)
    mask.save(tmp_path / f"m{suffix}")
    back = read_image(tmp_path / f"m{suffix}")
    assert back.data.dtype == np.uint8
    np.testing.assert_array_equal(back.data, mask.data)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".png", np.uint8), (".png", np.uint16), (".tif", np.uint8), (".tif", np.uint16), (".tif", np.float32), (".jpg", np.uint8)],
)
def test_planes(suffix, dtype, make_image, tmp_path):
    image = make_image(Grid((23, 18), np.eye(3)), dtype)
    image.save(tmp_path / f"a{suffix}")
    back = read_image(tmp_path / f"a{suffix}")
    assert back.data.dtype == dtype and back.data.shape == (23, 18)
    np.testing.assert_allclose(back.data.astype(float), image.data.astype(float), atol=12 if suffix == ".jpg" else 0)
    # x is the column: the first axis of the array is the picture's width
    assert SimpleITK.ReadImage(os.fspath(tmp_path / f"a{suffix}")).GetSize() == (23, 18)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colour_becomes_grey(channels, tmp_path):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (18, 23, channels), dtype=np.uint8)
    path = tmp_path / "c.nrrd"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(rgb, isVector=True), os.fspath(path))
    back = read_image(path)
    if channels == 2:
        np.testing.assert_array_equal(back.data, rgb[..., 0].T)
        return
    assert back.data.dtype == np.float32
    np.testing.assert_allclose(back.data, (rgb[..., :3] @ (0.299, 0.587, 0.114)).T, atol=1e-3)
    grey = np.repeat(rgb[..., :1], 3, axis=2)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(grey, isVector=True), os.fspath(tmp_path / "g.png"))
    back = read_image(tmp_path / "g.png")
    assert back.data.dtype == np.uint8
    np.testing.assert_array_equal(back.data, grey[..., 0].T)


def write_dicom(folder, image: Image, uid: str = "1.2.826.0.1.3680043.2.1125.1", skip: int | None = None) -> None:
    folder.mkdir(exist_ok=True)
    source, before = image_to_sitk(image), locale.setlocale(locale.LC_ALL)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    turn = source.GetDirection()
    for k in range(source.GetDepth()):
        if k == skip:
            continue
        plane = source[:, :, k]
        tags = {
            "0008|0060": "CT",
            "0020|000e": uid,
            "0020|000d": uid + ".9",
            "0008|0018": f"{uid}.{k + 100}",
            "0020|0013": str(k),
            "0020|0037": "\\".join(f"{turn[i]:.12g}" for i in (0, 3, 6, 1, 4, 7)),
            "0020|0032": "\\".join(f"{v:.10g}" for v in source.TransformIndexToPhysicalPoint((0, 0, k))),
            "0018|0050": str(source.GetSpacing()[2]),
        }
        for key, value in tags.items():
            plane.SetMetaData(key, value)
        writer.SetFileName(os.fspath(folder / f"{uid}.{99 - k}.dcm"))  # names in the wrong order: positions decide
        writer.Execute(plane)
    locale.setlocale(locale.LC_ALL, before)  # GDCM's writer leaves the C locale behind, in which later tests cannot decode UTF-8


def test_dicom_series(fixed_grid, make_image, tmp_path):
    # GDCM orders slices along the normal of the rows and columns, so the grid must be right-handed in LPS to come back as it was.
    image = make_image(fixed_grid, np.int16)
    write_dicom(tmp_path / "scan", image)
    back = read_image(tmp_path / "scan")
    assert back.data.dtype.kind == "i"
    np.testing.assert_array_equal(back.data, image.data)
    np.testing.assert_allclose(back.grid.affine, image.grid.affine, atol=1e-4)


def test_dicom_folders_that_cannot_be_used(fixed_grid, make_image, tmp_path):
    image = make_image(fixed_grid, np.int16)
    (tmp_path / "empty").mkdir()
    write_dicom(tmp_path / "two", image)
    write_dicom(tmp_path / "two", image, uid="1.2.826.0.1.3680043.2.1125.2")
    write_dicom(tmp_path / "gap", image, skip=8)
    for folder, words in (("empty", "no DICOM series"), ("two", "2 DICOM series"), ("gap", "uneven.*4.2 mm.*2.1 mm")):
        with pytest.raises(InputError, match=words) as caught:
            read_image(tmp_path / folder)
        assert "\n" not in str(caught.value)


def test_nifti_keeps_shear(fixed_grid, make_image, tmp_path):
    affine = fixed_grid.affine.copy()
    affine[0, 1] += 0.3
    image = make_image(Grid(fixed_grid.shape, affine))
    image.save(tmp_path / "s.nii.gz")
    header = nibabel.load(tmp_path / "s.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)
    np.testing.assert_allclose(read_image(tmp_path / "s.nii.gz").grid.affine, affine, atol=1e-5)
    with pytest.raises(InputError, match=r"shear.*\.nii\.gz"):
        image.save(tmp_path / "s.mha")
    with pytest.warns(UserWarning, match="no shear: voxel centres move by up to"):
        image_to_sitk(image)


def test_nifti_forms_agree(fixed_grid, make_image, tmp_path):
    make_image(fixed_grid).save(tmp_path / "a.nii.gz")
    header = nibabel.load(tmp_path / "a.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)
    assert header.get_xyzt_units()[0] == "mm"


def test_left_handed_grid(make_image, tmp_path):
    affine = np.array([[0, 0, 1.5, -3], [-1, 0, 0, 9], [0, 2, 0, 4], [0, 0, 0, 1.0]])
    for grid in (Grid((5, 6, 7), affine), Grid((5, 6, 7), affine * [[-1], [1], [1], [1]])):
        make_image(grid).save(tmp_path / "l.nii")
        header = nibabel.load(tmp_path / "l.nii").header
        np.testing.assert_allclose(header.get_qform(), grid.affine, atol=1e-5)
        assert read_image(tmp_path / "l.nii").grid.matches(grid)


def nifti(path, data, affine=None, **edit):
    image = nibabel.Nifti1Image(data, affine, dtype=data.dtype)
    image.header.set_data_dtype(data.dtype)
    for key, value in edit.items():
        getattr(image.header, key)(*value)
    nibabel.save(image, path)
    return path


def test_scaled_integers_become_float32(tmp_path):
    raw = bytearray(nibabel.Nifti1Image(np.arange(125, dtype=np.int16).reshape(5, 5, 5), np.eye(4)).to_bytes())
    raw[112:120] = np.array([0.5, -1024], "<f4").tobytes()  # scl_slope and scl_inter
    (tmp_path / "s.nii").write_bytes(raw)
    back = read_image(tmp_path / "s.nii")
    assert back.data.dtype == np.float32
    np.testing.assert_array_equal(back.data, np.arange(125).reshape(5, 5, 5) * 0.5 - 1024)


def test_big_endian_and_nifti2(tmp_path):
    data = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    big = nibabel.Nifti1Image(data, np.diag([1.0, 2, 3, 1]), header=nibabel.Nifti1Header(endianness=">"))
    big.set_data_dtype(np.int16)
    nibabel.save(big, tmp_path / "big.nii.gz")
    nibabel.save(nibabel.Nifti2Image(data, np.diag([1.0, 2, 3, 1])), tmp_path / "two.nii.gz")
    for name in ("big.nii.gz", "two.nii.gz"):
        back = read_image(tmp_path / name)
        assert back.data.dtype == np.int16 and back.data.dtype.isnative
        np.testing.assert_array_equal(back.data, data)
        np.testing.assert_array_equal(back.grid.affine, np.diag([1.0, 2, 3, 1]))


def test_freesurfer(fixed_grid, make_image, tmp_path):
    image = make_image(fixed_grid, np.int16)
    nibabel.save(nibabel.MGHImage(image.data, fixed_grid.affine), tmp_path / "a.mgz")
    back = read_image(tmp_path / "a.mgz")
    np.testing.assert_array_equal(back.data, image.data)
    assert back.grid.matches(fixed_grid)


def test_no_form_is_placed_as_itk_places_it(tmp_path):
    path = nifti(tmp_path / "n.nii", np.zeros((4, 5, 6), np.float32), set_zooms=((1.5, 2, 3),))
    there = SimpleITK.ReadImage(os.fspath(path))
    world = np.array(there.TransformIndexToPhysicalPoint((1, 2, 3))) * (-1, -1, 1)
    np.testing.assert_allclose(read_image(path).grid.to_world([[1, 2, 3]])[0], world)


def test_sform_and_qform(tmp_path):
    shifted = np.eye(4)
    shifted[2, 3] = 0.2
    path = nifti(tmp_path / "d.nii", np.zeros((4, 5, 6), np.float32), set_sform=(shifted, 1), set_qform=(np.eye(4), 1))
    with pytest.raises(InputError, match="sform and qform place a corner 0.2 mm apart.*--header sform or --header qform"):
        read_image(path, name="fixed")
    np.testing.assert_array_equal(read_image(path, header="sform").grid.affine, shifted.astype(np.float32))
    np.testing.assert_array_equal(read_image(path, header="qform").grid.affine, np.eye(4))
    close = np.eye(4)
    close[2, 3] = 0.05
    path = nifti(tmp_path / "c.nii", np.zeros((4, 5, 6), np.float32), set_sform=(close, 1), set_qform=(np.eye(4), 1))
    assert read_image(path).grid.affine[2, 3] == pytest.approx(0.05)
    path = nifti(tmp_path / "q.nii", np.zeros((4, 5, 6), np.float32), set_sform=(None, 0), set_qform=(close, 1))
    assert read_image(path).grid.affine[2, 3] == pytest.approx(0.05)
    with pytest.raises(InputError, match="no sform"):
        read_image(path, header="sform")
    with pytest.raises(InputError, match='must be "auto"'):
        read_image(path, header="best")


def test_trailing_singletons_are_dropped(tmp_path):
    path = nifti(tmp_path / "t.nii", np.zeros((4, 5, 6, 1, 1), np.int16), np.eye(4))
    assert read_image(path).data.shape == (4, 5, 6)


def broken_files(folder):
    nifti(folder / "four.nii", np.zeros((4, 5, 6, 3), np.int16), np.eye(4))
    yield "four.nii", "3 volumes"
    nifti(folder / "complex.nii", np.zeros((4, 5, 6), np.complex64), np.eye(4))
    yield "complex.nii", "complex"
    nifti(folder / "vector.nii", np.zeros((4, 5, 6, 1, 3), np.float32), np.eye(4), set_intent=("vector",))
    yield "vector.nii", "displacement or vector field.*load_transform"
    colour = np.zeros((4, 5, 6), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nibabel.save(nibabel.Nifti1Image(colour, np.eye(4)), folder / "colour.nii")
    yield "colour.nii", "colour"
    good = nifti(folder / "good.nii", np.random.default_rng(0).normal(size=(8, 9, 10)), np.eye(4)).read_bytes()
    (folder / "cut.nii").write_bytes(good[:2000])
    yield "cut.nii", "cut short"
    (folder / "cut.nii.gz").write_bytes(gzip.compress(good)[:2000])
    yield "cut.nii.gz", "not a readable image"
    (folder / "head.nii").write_bytes(good[:100])
    yield "head.nii", "not a readable image"
    (folder / "text.nii.gz").write_text("hello")
    yield "text.nii.gz", "not a readable image"
    singular = bytearray(good)
    singular[280:328] = bytes(48)  # srow_x, srow_y, srow_z
    (folder / "singular.nii").write_bytes(singular)
    yield "singular.nii", "singular"
    (folder / "text.mha").write_text("hello")
    yield "text.mha", "cannot be read"
    (folder / "what.xyz").write_text("hello")
    yield "what.xyz", "cannot be read.*regkit reads NIfTI"
    yield "missing.nii.gz", "no such file"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 5, 6, 3)), isVector=True), os.fspath(folder / "vector.mha"))
    yield "vector.mha", "3 values a voxel"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((2, 4, 5, 6), np.float32), isVector=False), os.fspath(folder / "four.nrrd"))
    yield "four.nrrd", "2 volumes"


def test_broken_files_are_refused_in_one_line(tmp_path):
    for name, words in broken_files(tmp_path):
        with pytest.raises(InputError, match=words) as caught:
            read_image(tmp_path / name, name="moving")
        message = str(caught.value)
        assert message.startswith("moving: ") and message.count(name) == 1 and "\n" not in message, message


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.png", "2-D"), ("a.jpg", "2-D"), ("a.dcm", "unknown image format"), ("a.mhd", "unknown image format"), ("a", "unknown")],
)
def test_images_that_a_format_cannot_hold(name, words, fixed_grid, make_image, tmp_path):
    with pytest.raises(InputError, match=words):
        make_image(fixed_grid).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_png_takes_no_floats(flat_grid, make_image, tmp_path):
    with pytest.raises(InputError, match="not float32"):
        make_image(flat_grid).save(tmp_path / "a.png")


def test_equal_images_give_equal_bytes(fixed_grid, make_image, tmp_path):
    make_image(fixed_grid).save(tmp_path / "a.nii.gz")
    make_image(fixed_grid).save(tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_atomic_path(tmp_path):
    target = tmp_path / "deep" / "x.nii.gz"
    with atomic_path(target) as draft:
        assert draft.parent == target.parent and draft.name.endswith(".nii.gz") and not target.exists()
        draft.write_text("old")
    assert target.read_text() == "old"
    with pytest.raises(RuntimeError), atomic_path(target) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(target.parent.iterdir()) == [target]


def test_check_scan(fixed_grid, make_image):
    check_scan(make_image(fixed_grid), "fixed")
    check_scan(make_image(fixed_grid, np.int16), "fixed")
    data = make_image(fixed_grid).data
    bad = data.copy()
    bad[3, 4, 5], bad[0, 0, 0] = np.nan, np.inf
    for values, grid, words in (
        (bad, fixed_grid, "fixed: 2 voxels are NaN or infinite"),
        (np.full_like(data, 7), fixed_grid, "every voxel is 7.0"),
        (data[:3], fixed_grid.crop((0, 0, 0), (3, 26, 17)), "too small; every axis needs 4"),
    ):
        with pytest.raises(InputError, match=words):
            check_scan(Image(values, grid), "fixed")


def test_check_mask(fixed_grid, moving_grid, flat_grid, make_image):
    scan = make_image(fixed_grid)
    mask = np.zeros(moving_grid.shape, bool)
    with pytest.raises(InputError, match="fixed mask: is empty"):
        check_mask(Image(mask, moving_grid), scan, "fixed mask")
    mask[10:14, 8:12, 10:14] = True
    check_mask(Image(mask, moving_grid), scan)
    check_mask(Image(mask, moving_grid), fixed_grid)
    far = moving_grid.affine.copy()
    far[1, 3] += 500
    with pytest.raises(InputError, match="no foreground voxel lies inside"):
        check_mask(Image(mask, Grid(moving_grid.shape, far)), scan)
    with pytest.raises(InputError, match="2-D"):
        check_mask(Image(np.ones(flat_grid.shape, bool), flat_grid), scan)
