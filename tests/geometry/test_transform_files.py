"""Transforms through files: what ITK reads from them is what regkit meant, in 2-D and 3-D."""

import os

import nibabel
import numpy as np
import pytest
import SimpleITK

from regkit.errors import InputError
from regkit.geometry import (
    Affine,
    Composite,
    DisplacementField,
    Grid,
    as_displacement_field,
    image_to_sitk,
    load_transform,
    resample,
    save_transform,
    total_displacement,
    transform_from_sitk,
)


@pytest.fixture(params=[2, 3])
def scene(request, fixed_grid, moving_grid, flat_grid):
    """(fixed grid, moving grid, signs from regkit's world to ITK's)."""
    if request.param == 3:
        return fixed_grid, moving_grid, np.array([-1, -1, 1])
    return flat_grid, flat_grid.with_spacing((1.1, 0.8)), np.array([1, 1])


def inner_points(grid: Grid) -> np.ndarray:
    return grid.to_world(np.random.default_rng(5).uniform(0, np.array(grid.shape) - 1, (300, grid.ndim)))


def itk_points(transform, points, signs):
    return np.array([transform.TransformPoint(p) for p in (points * signs).tolist()]) * signs


@pytest.mark.parametrize("suffix", [".h5", ".tfm", ".txt"])
def test_composite_round_trip(suffix, scene, make_transform, tmp_path):
    fixed, _, signs = scene
    transform = make_transform(fixed)
    path = tmp_path / f"t{suffix}"
    transform.save(path)
    points = inner_points(fixed)
    back = load_transform(path)
    assert [type(part) for part in back.parts] == [Affine, DisplacementField]
    np.testing.assert_allclose(back.apply(points), transform.apply(points), atol=1e-4)
    np.testing.assert_array_equal(back.parts[1].vectors, transform.parts[1].vectors)
    np.testing.assert_allclose(itk_points(SimpleITK.ReadTransform(os.fspath(path)), points, signs), transform.apply(points), atol=1e-4)


@pytest.mark.parametrize("suffix", [".h5", ".tfm", ".mat", ".txt"])
def test_affine_round_trip(suffix, scene, make_transform, tmp_path):
    affine = make_transform(scene[0]).parts[0]
    affine.save(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(load_transform(tmp_path / f"a{suffix}").matrix, affine.matrix, atol=1e-9)


def test_mat_folds_affines(scene, make_transform, tmp_path):
    affine, field = make_transform(scene[0]).parts
    Composite([affine, affine]).save(tmp_path / "a.mat")
    np.testing.assert_allclose(load_transform(tmp_path / "a.mat").matrix, (affine @ affine).matrix, atol=1e-9)
    with pytest.raises(InputError, match=r"displacement field; write \.h5"):
        (affine @ field).save(tmp_path / "b.mat")
    assert not (tmp_path / "b.mat").exists()


def test_displacement_nifti(scene, make_transform, tmp_path):
    fixed, _, signs = scene
    field = make_transform(fixed).parts[1]
    path = tmp_path / "d.nii.gz"
    field.save(path)
    header = nibabel.load(path).header
    assert header["intent_code"] == 1007 and header.get_data_dtype() == np.float32
    assert header.get_data_shape() == (*field.grid.shape, *(1 for _ in range(4 - field.ndim)), field.ndim)
    points = inner_points(fixed)
    there = SimpleITK.DisplacementFieldTransform(SimpleITK.ReadImage(os.fspath(path), SimpleITK.sitkVectorFloat64))
    np.testing.assert_allclose(itk_points(there, points, signs), field.apply(points), atol=1e-4)
    back = load_transform(path)
    np.testing.assert_array_equal(back.vectors, field.vectors)
    assert back.grid.matches(field.grid)


def test_displacement_nifti_written_by_itk(scene, make_transform, tmp_path):
    fixed, _, signs = scene
    field = make_transform(fixed).parts[1]
    image = SimpleITK.GetImageFromArray(field.vectors.astype(np.float64).T * signs, isVector=True)
    image.CopyInformation(image_to_sitk(make_image_like(field.grid)))
    SimpleITK.WriteImage(image, os.fspath(tmp_path / "itk.nii.gz"))
    points = inner_points(fixed)
    np.testing.assert_allclose(load_transform(tmp_path / "itk.nii.gz").apply(points), field.apply(points), atol=1e-4)


def make_image_like(grid: Grid):
    from regkit.geometry import Image

    return Image(np.zeros(grid.shape, np.float32), grid)


def test_chain_as_one_field(scene, make_transform, tmp_path):
    fixed, moving, _ = scene
    transform = make_transform(fixed)
    with pytest.raises(InputError, match="needs a grid"):
        transform.save(tmp_path / "d.nii.gz")
    transform.save(tmp_path / "d.nii.gz", fixed=fixed)
    expected = total_displacement(transform, fixed, moving)
    np.testing.assert_allclose(total_displacement(load_transform(tmp_path / "d.nii.gz"), fixed, moving), expected, atol=1e-3)


def test_learn2reg_export(scene, make_transform, tmp_path):
    fixed, moving, _ = scene
    transform = make_transform(fixed)
    with pytest.raises(InputError, match="both grids"):
        transform.save(tmp_path / "d.npz", fixed=fixed)
    transform.save(tmp_path / "d.npz", fixed=fixed, moving=moving)
    arrays = np.load(tmp_path / "d.npz")
    assert len(arrays.files) == 1
    displacement = arrays[arrays.files[0]]
    assert displacement.shape == (*fixed.shape, fixed.ndim) and displacement.dtype == np.float32
    index = np.array([[3, 4, 5][: fixed.ndim]])
    expected = moving.to_index(transform.apply(fixed.to_world(index)))[0]
    np.testing.assert_allclose(index[0] + displacement[tuple(index[0])], expected, atol=1e-3)


@pytest.mark.parametrize("where", ["half resolution", "fixed grid", "other axes"])
def test_itk_resamples_as_regkit_does(where, scene, make_image, make_transform, tmp_path):
    fixed, moving, _ = scene
    field_grid = {"half resolution": None, "fixed grid": fixed, "other axes": moving}[where]
    transform = make_transform(fixed, field_grid=field_grid)
    image = make_image(moving, seed=4)
    transform.save(tmp_path / "t.h5")
    image.save(tmp_path / "moving.nii.gz")
    make_image(fixed).save(tmp_path / "fixed.nii.gz")
    there = SimpleITK.Resample(
        SimpleITK.ReadImage(os.fspath(tmp_path / "moving.nii.gz")),
        SimpleITK.ReadImage(os.fspath(tmp_path / "fixed.nii.gz")),
        SimpleITK.ReadTransform(os.fspath(tmp_path / "t.h5")),
        SimpleITK.sitkLinear,
        -50.0,
    )
    there = SimpleITK.GetArrayFromImage(there).T
    ours = resample(image, fixed, transform, fill=-50.0)
    assert 0.02 < (ours.data == -50).mean() < 0.7  # the border is really part of this
    assert np.abs(ours.data - there).max() < 1e-3 * np.ptp(image.data)


def test_itk_moves_labels_as_regkit_does(scene, make_image, make_transform, tmp_path):
    fixed, moving, _ = scene
    transform = make_transform(fixed)
    image = make_image(moving, np.uint16, seed=4)
    transform.save(tmp_path / "t.h5")
    there = SimpleITK.Resample(
        image_to_sitk(image),
        image_to_sitk(make_image(fixed)),
        SimpleITK.ReadTransform(os.fspath(tmp_path / "t.h5")),
        SimpleITK.sitkNearestNeighbor,
    )
    ours = resample(image, fixed, transform)
    assert ours.data.dtype == np.uint16
    assert (ours.data != SimpleITK.GetArrayFromImage(there).T).mean() < 1e-3  # halves, rounded in float32 here


def test_field_on_a_sheared_grid(fixed_grid, make_transform, tmp_path):
    affine = fixed_grid.affine.copy()
    affine[0, 1] += 0.4
    sheared = Grid(fixed_grid.shape, affine)
    field = make_transform(sheared, field_grid=sheared).parts[1]
    inside = sheared.to_world(np.random.default_rng(0).uniform(3, np.array(sheared.shape) - 4, (300, 3)))
    span = np.abs(field.vectors).max()
    for name in ("t.h5", "t.nii.gz"):
        field.save(tmp_path / name)
        difference = np.abs(load_transform(tmp_path / name).apply(inside) - field.apply(inside))
        assert difference.max() < 0.2 * span and difference.mean() < 0.02 * span  # interpolated once more, not misplaced


@pytest.mark.parametrize(
    "make",
    [
        lambda: SimpleITK.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (4, 5, 6)),
        lambda: SimpleITK.Similarity3DTransform(1.2, (0, 0, 1), 0.3, (4, 5, 6), (7, 8, 9)),
        lambda: SimpleITK.TranslationTransform(3, (1, -2, 3)),
        lambda: SimpleITK.Euler2DTransform((3, 4), 0.4, (5, 6)),
        lambda: SimpleITK.ScaleTransform(3, (1.5, 1, 0.5)),
        lambda: SimpleITK.Transform(3, SimpleITK.sitkIdentity),
    ],
)
def test_linear_transforms_of_every_kind(make, tmp_path):
    source = make()
    ndim = source.GetDimension()
    SimpleITK.WriteTransform(source, os.fspath(tmp_path / "t.tfm"))
    points = np.random.default_rng(0).normal(size=(20, ndim)) * 50
    np.testing.assert_allclose(
        load_transform(tmp_path / "t.tfm").apply(points), itk_points(source, points, np.array([-1, -1, 1] if ndim == 3 else [1, 1]))
    )


@pytest.mark.parametrize("kind", ["MatrixOffsetTransformBase_double_3_3", "AffineTransform_float_3_3"])
def test_affines_as_ants_writes_them(kind, tmp_path):
    (tmp_path / "ants.tfm").write_text(
        f"#Insight Transform File V1.0\n#Transform 0\nTransform: {kind}\nParameters: 1 0 0 0 2 0 0 0 1 4 5 6\nFixedParameters: 1 2 3\n"
    )
    # LPS: p' = A (p - c) + c + t, so y' = 2 y - 2 + 5; then x and y flipped
    np.testing.assert_allclose(load_transform(tmp_path / "ants.tfm").matrix[:3], [[1, 0, 0, -4], [0, 2, 0, -3], [0, 0, 1, 6]])


def test_transforms_that_cannot_be_read(fixed_grid, make_image, tmp_path):
    image = image_to_sitk(make_image(fixed_grid))
    with pytest.raises(InputError, match="BSplineTransform is neither linear nor a displacement field"):
        transform_from_sitk(SimpleITK.BSplineTransformInitializer(image, [2, 2, 2]))
    make_image(fixed_grid).save(tmp_path / "scan.nii.gz")
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "text.tfm").write_text("hello")
    for name, words in (
        ("missing.h5", "no such transform file"),
        ("text.h5", "not a transform that ITK reads"),
        ("text.tfm", "not a transform that ITK reads"),
        ("scan.nii.gz", "no ITK displacement field; it needs"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            load_transform(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "a.x5").touch()
    with pytest.raises(InputError, match="unknown transform format"):
        load_transform(tmp_path / "a.x5")
    with pytest.raises(InputError, match="unknown transform format"):
        save_transform(Affine.identity(), tmp_path / "b.x5")


def test_as_field_keeps_direction_on_left_handed_grids(moving_grid, make_transform, tmp_path):
    affine = moving_grid.affine.copy()
    affine[:, 0] *= -1
    grid = Grid(moving_grid.shape, affine)
    field = as_displacement_field(make_transform(moving_grid), grid)
    points = inner_points(grid)
    for name in ("l.h5", "l.nii.gz"):
        field.save(tmp_path / name)
        np.testing.assert_allclose(load_transform(tmp_path / name).apply(points), field.apply(points), atol=1e-4)
