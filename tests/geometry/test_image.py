"""Image and as_image: every kind of source gives the same voxels in the same place."""

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch

from regkit.errors import InputError
from regkit.geometry import Grid, Image, as_image, image_to_sitk


@pytest.mark.parametrize("kind", ["image", "pair", "tensor pair", "nibabel", "sitk", "path"])
def test_as_image_takes(kind, fixed_grid, make_image, tmp_path):
    image = make_image(fixed_grid, np.int16)
    image.save(tmp_path / "a.nii.gz")
    source = {
        "image": image,
        "pair": (image.data, fixed_grid.affine),
        "tensor pair": (torch.from_numpy(image.data)[None, None], torch.from_numpy(fixed_grid.affine.copy())),
        "nibabel": nibabel.Nifti1Image(image.data, fixed_grid.affine),
        "sitk": image_to_sitk(image),
        "path": str(tmp_path / "a.nii.gz"),
    }[kind]
    result = as_image(source, "moving")
    assert result.name == "moving" and result.data.dtype == np.int16
    assert result.grid.matches(fixed_grid)
    np.testing.assert_array_equal(result.data, image.data)


def test_bare_arrays_get_unit_voxels():
    array = np.arange(24.0).reshape(2, 3, 4)
    for source in (array, torch.from_numpy(array), torch.from_numpy(array)[None, None], torch.from_numpy(array).bfloat16()):
        image = as_image(source)
        np.testing.assert_array_equal(image.data, array)
        assert image.grid == Grid((2, 3, 4), np.eye(4))
    assert Image.from_array(array, spacing=(1, 2, 3)).grid.spacing == (1, 2, 3)


def test_as_image_refuses():
    with pytest.raises(InputError, match="labels: cannot make an image of dict"):
        as_image({}, "labels")
    with pytest.raises(InputError, match="complex"):
        as_image(np.ones((4, 5), complex))
    with pytest.raises(InputError, match="2 or 3 axes"):
        as_image(np.ones((4, 5, 6, 7)))
    with pytest.raises(InputError, match="not both"):
        Image.from_array(np.ones((4, 5)), affine=np.eye(3), spacing=1)
    with pytest.raises(InputError, match="do not fit"):
        Image(np.ones((4, 5)), Grid((5, 4), np.eye(3)))


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, np.uint32, np.int64, bool, np.float16, np.float32, np.float64, ">i2", ">f4"]
)
def test_tensor_of_any_dtype_and_order(dtype):
    array = np.asfortranarray(np.arange(24).reshape(2, 3, 4) % 2).astype(dtype)
    for data in (array, array[::-1], array[:, ::2]):
        tensor = Image.from_array(data).tensor()
        assert tensor.shape == (1, 1, *data.shape) and tensor.dtype == torch.float32 and tensor.is_contiguous()
        np.testing.assert_array_equal(tensor[0, 0].numpy(), data.astype(np.float32))


def test_tensor_does_not_share_memory(fixed_grid, make_image):
    image = make_image(fixed_grid)
    before = image.data.copy()
    image.tensor().zero_()
    np.testing.assert_array_equal(image.data, before)


def test_read_only_data():
    array = np.ones((3, 4), np.float32)
    array.setflags(write=False)
    assert Image.from_array(array).tensor().sum() == 12


def test_is_labels():
    assert [Image.from_array(np.zeros((4, 4), d)).is_labels for d in (bool, np.uint8, np.int32, np.float32)] == [True, True, True, False]


def test_crop(fixed_grid, make_image):
    image = make_image(fixed_grid)
    part = image.crop((1, 2, 3), (5, 9, 17))
    np.testing.assert_array_equal(part.data, image.data[1:5, 2:9, 3:17])
    np.testing.assert_allclose(part.grid.to_world([[0, 0, 0]]), fixed_grid.to_world([[1, 2, 3]]))


def test_sitk_agrees_on_the_world(fixed_grid, make_image):
    there = image_to_sitk(make_image(fixed_grid))
    assert isinstance(there, SimpleITK.Image)
    lps = there.TransformContinuousIndexToPhysicalPoint((3.0, 7.5, 2.0))
    np.testing.assert_allclose(np.array(lps) * (-1, -1, 1), fixed_grid.to_world([[3.0, 7.5, 2.0]])[0])
