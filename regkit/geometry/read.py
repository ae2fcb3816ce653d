"""Reading scans, and the checks that a scan or mask must pass before it is registered.

NIfTI goes through nibabel (it accepts what ITK refuses: shear); MHA, NRRD, DICOM series, PNG, TIFF and JPEG go through SimpleITK.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regkit.errors import InputError
from regkit.geometry.grid import Grid
from regkit.geometry.image import Image
from regkit.geometry.itk import image_from_sitk
from regkit.geometry.nifti import NIBABEL_SUFFIXES, image_from_nibabel, load_nibabel

if TYPE_CHECKING:
    import SimpleITK

SMALLEST_AXIS = 4
_SLICE_GAP_TOLERANCE = 0.02  # of the median distance: what rounding in DICOM positions leaves


def read_image(path: str | os.PathLike[str], *, name: str = "image", header: str = "auto") -> Image:
    """Read a 2-D or 3-D image with its place in the world.

    NIfTI (.nii, .nii.gz, .hdr/.img), FreeSurfer's .mgz, MetaImage (.mha, .mhd), NRRD (.nrrd, .nhdr), a directory with one DICOM series,
    grey or colour 2-D PNG, TIFF, JPEG, and whatever else SimpleITK reads. Integers stay integers, floats stay floats; NIfTI scaling
    (scl_slope) is applied and gives float32. The whole affine is kept, shear too. World coordinates are RAS mm in 3-D, ITK's own in 2-D;
    a NIfTI file with neither sform nor qform is placed as ITK places it.

    Parameters
    ----------
    name : what error messages call the image.
    header : "sform" or "qform" names the NIfTI geometry to trust; "auto" takes the sform, then the qform, and refuses when both are set and
        differ by more than 0.1 mm at a corner.

    Raises
    ------
    InputError : missing or unreadable file, sform and qform that disagree, several volumes, complex or vector voxels, no voxels, a singular
        affine, a directory without exactly one complete DICOM series.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{name}: no such file: {path}")
    is_nibabel = not path.is_dir() and path.name.lower().endswith(NIBABEL_SUFFIXES)
    source = load_nibabel(path, name) if is_nibabel else _read_dicom_series(path, name) if path.is_dir() else _read_sitk(path, name)
    try:
        return image_from_nibabel(source, name, header) if is_nibabel else image_from_sitk(source, name)
    except InputError as error:  # whoever looks at the voxels knows not the file
        raise InputError(f"{name}: {path}: {str(error).removeprefix(f'{name}: ')}") from error


def sitk_reason(error: Exception, path: Path) -> str:
    """The last line of a SimpleITK exception, without its stack of source lines and without the path: the part that a user can use."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return re.sub(r"^.*?(ERROR: |0x[0-9a-f]+\): )", "", lines[-1]).replace(f'"{path}"', "it").replace(f"{path}", "it").rstrip(".")


def _read_sitk(path: Path, name: str) -> SimpleITK.Image:
    import SimpleITK

    try:
        return SimpleITK.ReadImage(os.fspath(path))
    except RuntimeError as error:
        raise InputError(
            f"{name}: {path} cannot be read ({sitk_reason(error, path)}); regkit reads NIfTI, MHA, NRRD, DICOM folders, PNG, TIFF and JPEG"
        ) from error


def _read_dicom_series(folder: Path, name: str) -> SimpleITK.Image:
    import SimpleITK

    series = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(os.fspath(folder))
    if not series:
        raise InputError(f"{name}: {folder} holds no DICOM series; give a folder with the slices of one scan, or a file")
    files = {uid: SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(os.fspath(folder), uid) for uid in series}
    if len(series) > 1:
        found = ", ".join(f"{uid} ({len(names)} slices)" for uid, names in files.items())
        raise InputError(f"{name}: {folder} holds {len(series)} DICOM series: {found}; put the one to register in a folder of its own")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(files[series[0]])
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{name}: the DICOM series in {folder} cannot be read ({sitk_reason(error, folder)}); export it again") from error
    _check_slices(reader, len(files[series[0]]), folder, name)
    return image


def _check_slices(reader: SimpleITK.ImageSeriesReader, slices: int, folder: Path, name: str) -> None:
    """ITK spreads the slices evenly whatever their positions; a missing slice would shift all anatomy behind it."""
    position = "0020|0032"
    if slices < 3 or not all(reader.HasMetaDataKey(i, position) for i in range(slices)):
        return
    points = np.array([[float(v) for v in reader.GetMetaData(i, position).split("\\")] for i in range(slices)])
    gaps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    usual = float(np.median(gaps))
    worst = int(np.abs(gaps - usual).argmax())
    if abs(gaps[worst] - usual) > _SLICE_GAP_TOLERANCE * usual:
        raise InputError(
            f"{name}: the DICOM series in {folder} is uneven: slices {worst} and {worst + 1} are {gaps[worst]:.3g} mm apart, "
            f"the others {usual:.3g} mm; "
            "export all slices of one scan"
        )


def check_scan(image: Image, name: str = "image") -> None:
    """Refuse a scan that cannot be registered: NaN or infinity, one value everywhere, or fewer than 4 voxels on an axis.
    Raises InputError."""
    if min(image.grid.shape) < SMALLEST_AXIS:
        raise InputError(
            f"{name}: shape {image.grid.shape} is too small; every axis needs {SMALLEST_AXIS} voxels (a single slice: save it as 2-D)"
        )
    low, high = image.data.min(), image.data.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(image.data.size - np.isfinite(image.data).sum())
        raise InputError(f"{name}: {bad} voxels are NaN or infinite; replace them, e.g. by numpy.nan_to_num")
    if low == high:
        raise InputError(f"{name}: every voxel is {low}; a constant image cannot be registered, check the file")


def check_mask(mask: Image, grid_of: Image | Grid, name: str = "mask") -> None:
    """Refuse a mask or label map that is empty, or that has no foreground inside the scan (or grid) it belongs to. Raises InputError."""
    grid = grid_of if isinstance(grid_of, Grid) else grid_of.grid
    if mask.ndim != grid.ndim:
        raise InputError(f"{name}: is {mask.ndim}-D but its scan is {grid.ndim}-D; give one of the same dimension")
    index = np.argwhere(mask.data)
    if len(index) == 0:
        raise InputError(f"{name}: is empty (all voxels 0); give a mask with some foreground or leave it out")
    if not grid.contains(mask.grid.to_world(index[:: max(1, len(index) // 100_000)])).any():
        raise InputError(
            f"{name}: no foreground voxel lies inside its scan; check that both files share one world (origin and orientation)"
        )
