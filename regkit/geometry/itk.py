"""The border to ITK: grids, images and matrices between regkit's world and SimpleITK's.

ITK's physical space is LPS, regkit's 3-D world is RAS: the two differ by the signs of x and y, and that flip happens here
(and in the readers and writers that call this), nowhere else. In 2-D both are the same.
ITK knows no shear, so a sheared grid has to be replaced on the way out.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from regkit.errors import InputError
from regkit.geometry.grid import Grid
from regkit.geometry.image import Image

if TYPE_CHECKING:
    import SimpleITK

SHEAR_TOLERANCE_MM = 1e-2  # what float32 headers and rotations rounded by other tools leave; below it a grid counts as orthonormal


def lps_flip(ndim: int) -> np.ndarray:
    """(D,) signs that turn RAS into LPS and back: (-1, -1, 1) in 3-D, (1, 1) in 2-D where the world is ITK's own."""
    return np.array([-1.0, -1.0, 1.0] if ndim == 3 else [1.0, 1.0])


def flip_matrix(matrix: np.ndarray) -> np.ndarray:
    """A world-to-world (D+1, D+1) matrix from RAS to LPS or back: F M F."""
    signs = np.append(lps_flip(len(matrix) - 1), 1.0)
    return signs[:, None] * matrix * signs


def orthonormal(grid: Grid) -> tuple[Grid, float]:
    """The nearest grid that ITK can hold (same centre, spacing and shape, axes by polar decomposition) and how far, in mm,
    a voxel centre moved at most."""
    left, _, right = np.linalg.svd(grid.directions)
    affine = np.eye(grid.ndim + 1)
    affine[:-1, :-1] = left @ right * np.asarray(grid.spacing)
    middle = (np.asarray(grid.shape, dtype=np.float64) - 1.0) / 2.0
    affine[:-1, -1] = grid.center - affine[:-1, :-1] @ middle
    nearest = Grid(grid.shape, affine)
    return nearest, float(np.linalg.norm(nearest.corners - grid.corners, axis=1).max())


def orthonormal_cover(grid: Grid) -> Grid:
    """A grid that ITK can hold, with about the same spacing, around all voxel centres of ``grid``;
    ``grid`` itself where it has no shear."""
    nearest, error = orthonormal(grid)
    if error <= SHEAR_TOLERANCE_MM:
        return grid
    index = nearest.to_index(grid.corners)
    before = np.ceil(np.maximum(0.0, -index.min(axis=0))).astype(int)
    after = np.ceil(np.maximum(0.0, index.max(axis=0) - np.asarray(grid.shape) + 1.0)).astype(int)
    return nearest.pad(before.tolist(), after.tolist())


def set_sitk_grid(image: SimpleITK.Image, grid: Grid) -> None:
    """Give a SimpleITK image the grid's origin, spacing and direction; warns with the largest error in mm when shear has to go."""
    nearest, error = orthonormal(grid)
    if error > SHEAR_TOLERANCE_MM:
        warnings.warn(f"ITK knows no shear: voxel centres move by up to {error:.3g} mm; NIfTI files keep the shear", stacklevel=3)
    signs = lps_flip(grid.ndim)
    image.SetSpacing(nearest.spacing)
    image.SetOrigin((signs * nearest.origin).tolist())
    image.SetDirection((signs[:, None] * nearest.directions).ravel().tolist())


def grid_from_sitk(image: SimpleITK.Image) -> Grid:
    """The grid of a SimpleITK image (or of anything with its GetSize, GetOrigin, GetSpacing and GetDirection)."""
    ndim = image.GetDimension()
    signs = lps_flip(ndim)
    affine = np.eye(ndim + 1)
    affine[:-1, :-1] = signs[:, None] * np.reshape(image.GetDirection(), (ndim, ndim)) * np.asarray(image.GetSpacing())
    affine[:-1, -1] = signs * image.GetOrigin()
    return Grid(image.GetSize(), affine)


def image_to_sitk(image: Image) -> SimpleITK.Image:
    """A SimpleITK image with the same voxels (bool becomes uint8) in the same place; warns when shear is lost."""
    import SimpleITK

    data = image.data
    if data.dtype == bool:
        data = data.view(np.uint8)
    elif data.dtype == np.float16:
        data = data.astype(np.float32)
    result = SimpleITK.GetImageFromArray(data.T)
    set_sitk_grid(result, image.grid)
    return result


def image_from_sitk(source: SimpleITK.Image, name: str = "image") -> Image:
    """An Image from a SimpleITK image. Colour 2-D images become grey: equal channels as they are, else ITU-R 601 luma in float32;
    alpha is dropped.

    Raises InputError for 4-D, complex, and other images with several values a voxel.
    """
    import SimpleITK

    size = source.GetSize()
    if len(size) > 3:
        if max(size[3:]) > 1:
            raise InputError(f"{name}: holds {int(np.prod(size[3:]))} volumes (size {size}); extract the one to register")
        source = SimpleITK.Extract(source, [*size[:3], *(0 for _ in size[3:])])
    if "complex" in source.GetPixelIDTypeAsString():
        raise InputError(f"{name}: complex voxels cannot be registered; save the magnitude")
    if min(size) < 1:
        raise InputError(f"{name}: the image is empty (size {size})")
    data = SimpleITK.GetArrayFromImage(source)
    channels = source.GetNumberOfComponentsPerPixel()
    if channels > 1:
        if source.GetDimension() != 2:
            raise InputError(
                f"{name}: {channels} values a voxel; give an image with one (a displacement field is a transform: load_transform)"
            )
        data = _grey(data, name)
    return Image(data.T, grid_from_sitk(source), name)


def _grey(data: np.ndarray, name: str) -> np.ndarray:
    channels = data.shape[-1]
    if channels not in (2, 3, 4):
        raise InputError(f"{name}: {channels} channels; give a grey or RGB image")
    if channels == 2 or all(np.array_equal(data[..., 0], data[..., c]) for c in (1, 2)):
        return np.ascontiguousarray(data[..., 0])
    return (data[..., :3] @ np.array([0.299, 0.587, 0.114])).astype(np.float32)
