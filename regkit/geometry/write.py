"""Writing images, and the way in which every file of regkit is written: beside its place first, then moved there whole.

A run that is killed must leave either the old file or the new one, since cohorts resume by what they find.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from regkit.errors import InputError
from regkit.geometry.image import Image
from regkit.geometry.itk import SHEAR_TOLERANCE_MM, image_to_sitk, orthonormal
from regkit.geometry.nifti import write_nifti

_PLANE_DTYPES = {
    ".png": ("uint8", "uint16"),
    ".tif": ("uint8", "uint16", "int16", "float32"),
    ".tiff": ("uint8", "uint16", "int16", "float32"),
}
_PLANE_DTYPES |= {".jpg": ("uint8",), ".jpeg": ("uint8",)}


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside ``path`` (same suffixes) to write to; on leaving it replaces ``path`` in one step,
    on an error it is removed and ``path`` stays.

    Missing parent folders are made. The file gets the usual permissions (the umask's), not those of private temporary files.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex[:12]}.{path.name}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_image(image: Image, path: str | os.PathLike[str]) -> None:
    """Write an image; the name's suffix names the format. The dtype is kept (bool becomes uint8, float16 float32).

    .nii and .nii.gz keep the whole affine, with sform and qform alike. .mha and .nrrd (ITK) know no shear. .png, .tif and .jpg take 2-D
    images of the integer types they know (.tif float32 too) and lose part of the geometry. The file appears whole or not at all.

    Raises
    ------
    InputError : a suffix that is not known, or an image that the format cannot hold.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        data = image.data
        if data.dtype == bool:
            data = data.view(np.uint8)
        elif data.dtype == np.float16:
            data = data.astype(np.float32)
        with atomic_path(path) as draft:
            write_nifti(draft, data, image.grid)
        return
    suffix = path.suffix.lower()
    if suffix in (".mha", ".nrrd"):
        error = orthonormal(image.grid)[1]
        if error > SHEAR_TOLERANCE_MM:
            raise InputError(f"{path}: {suffix} cannot hold a sheared grid (voxels would move by {error:.3g} mm); write .nii.gz")
    elif suffix in _PLANE_DTYPES:
        allowed = _PLANE_DTYPES[suffix]
        dtype = "uint8" if image.data.dtype == bool else str(image.data.dtype)
        if image.ndim != 2:
            raise InputError(f"{path}: {suffix} holds 2-D images, this one is 3-D; write .nii.gz")
        if dtype not in allowed:
            raise InputError(f"{path}: {suffix} holds {', '.join(allowed)}, not {dtype}; convert it or write .nii.gz or .mha")
    else:
        raise InputError(f"{path}: unknown image format; use .nii.gz, .nii, .mha, .nrrd, or for 2-D .png, .tif, .jpg")
    import SimpleITK

    with atomic_path(path) as draft:
        SimpleITK.WriteImage(image_to_sitk(image), os.fspath(draft), useCompression=suffix in (".nrrd", ".tif", ".tiff", ".png"))
