"""Learn2Reg's displacement files: voxels of the fixed grid, component d along array axis d, such that moved(x) = moving(x + u(x)).

Now: disp_FFFF_MMMM.nii.gz, or disp_FFFF_ffff_MMMM_mmmm.nii.gz with the modalities; or .npz with one array. (X, Y, Z, 3), full size.

2020 and 2021: disp_FFFF_MMMM.npz, float16, (3, X/2, Y/2, Z/2) (hippocampus: full size), values in voxels of the full size. Whoever wrote
one took every component through zoom(1/2, order 2); the evaluation took it back through zoom(2, order 2).
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from regkit.errors import InputError
from regkit.geometry.displacement import total_displacement
from regkit.geometry.grid import Grid
from regkit.geometry.nifti import VECTOR_INTENT, load_nibabel, nifti_voxels, open_nibabel, write_nifti
from regkit.geometry.transforms import Transform
from regkit.geometry.write import atomic_path

_READ_ERRORS = (OSError, EOFError, ValueError, zipfile.BadZipFile)
_CASE = re.compile(r"_(\d{4})_(\d{4})\.nii\.gz$")


def learn2reg_case(image: str | os.PathLike[str]) -> tuple[str, str]:
    """Subject and modality, ("0001", "0000"), of a scan called NAME_0001_0000.nii.gz. Raises InputError for another name."""
    found = _CASE.search(os.fspath(image))
    if not found:
        raise InputError(f"{image}: Learn2Reg calls scans NAME_SSSS_MMMM.nii.gz, subject and modality with four digits each")
    return found[1], found[2]


def learn2reg_names(fixed: str | os.PathLike[str], moving: str | os.PathLike[str]) -> tuple[str, str]:
    """A pair's field as files are called, without suffix: (with modalities, which always passes, without)."""
    (fixed_subject, fixed_modality), (moving_subject, moving_modality) = learn2reg_case(fixed), learn2reg_case(moving)
    return f"disp_{fixed_subject}_{fixed_modality}_{moving_subject}_{moving_modality}", f"disp_{fixed_subject}_{moving_subject}"


def learn2reg_name(fixed: str | os.PathLike[str], moving: str | os.PathLike[str], *, half: bool = False) -> str:
    """The name under which a pair's field is handed in, without suffix: modalities are left out in 2020's format (half), and where they are
    0000 and 0001."""
    long, short = learn2reg_names(fixed, moving)
    return short if half or (learn2reg_case(fixed)[1], learn2reg_case(moving)[1]) == ("0000", "0001") else long


def write_learn2reg(path: str | os.PathLike[str], transform: Transform, fixed_grid: Grid, moving_grid: Grid, *, half: bool = False) -> None:
    """Write a transform, fixed points to moving points, as Learn2Reg's displacement. The file appears whole or not at all.

    path: .nii.gz (3-D; float32, (X, Y, Z, 3), the fixed grid's affine), or .npz (one array of the same).
    half: the format of 2020 and 2021, an .npz with float16 (3, X/2, Y/2, Z/2). It keeps 1/1000 of a displacement at best.

    Raises InputError for another suffix, for axes that half has no half of, and for a 2-D .nii.gz.
    """
    path = Path(path)
    name = path.name.lower()
    if not name.endswith((".npz",) if half else (".npz", ".nii.gz")):
        raise InputError(f"{path}: Learn2Reg's {'half resolution goes into .npz' if half else 'fields go into .nii.gz or .npz'}")
    if name.endswith(".nii.gz") and fixed_grid.ndim != 3:
        raise InputError(f"{path}: Learn2Reg's .nii.gz is 3-D, the fixed grid has shape {fixed_grid.shape}; write .npz")
    if half and any(n % 2 for n in fixed_grid.shape):
        raise InputError(f"{path}: half resolution needs even sizes, the fixed grid has shape {fixed_grid.shape}; write full resolution")
    components = total_displacement(transform, fixed_grid, moving_grid)[0].numpy()
    with atomic_path(path) as draft:
        if half:
            from scipy.ndimage import zoom

            np.savez_compressed(
                draft, displacement=np.stack([zoom(component, 0.5, order=2) for component in components]).astype(np.float16)
            )
        elif name.endswith(".npz"):
            np.savez_compressed(draft, displacement=np.moveaxis(components, 0, -1))
        else:
            write_nifti(draft, np.moveaxis(components, 0, -1), fixed_grid)


def check_learn2reg(path: str | os.PathLike[str], shape: Sequence[int]) -> None:
    """Look at a field file's header alone. Raises InputError as read_learn2reg does for what it shows."""
    path = Path(path)
    if path.name.lower().endswith(".npz"):
        found, dtype = _npz_header(path)
    elif path.name.lower().endswith(".nii.gz"):
        source = open_nibabel(path, path.name)
        found, dtype = source.shape, source.get_data_dtype()
    else:
        raise InputError(f"{path}: Learn2Reg's fields are .nii.gz or .npz")
    _check(path, found, dtype, shape)


def read_learn2reg(path: str | os.PathLike[str], shape: Sequence[int]) -> np.ndarray:
    """Read a field for a fixed scan of `shape` (X, Y, Z) as (X, Y, Z, 3) voxels: float64 from NIfTI, float32 from .npz.

    An .npz with channels first, at half or full resolution, is one of 2020 and 2021.

    Raises InputError, naming the file, what it needs and what it holds, for a file that cannot be read, another shape, values that are not
    numbers, and NaN or infinity.
    """
    path, shape = Path(path), tuple(shape)
    check_learn2reg(path, shape)
    if path.name.lower().endswith(".npz"):
        try:
            with np.load(path, allow_pickle=False) as arrays:
                field = arrays[arrays.files[0]].astype(np.float32)
        except (*_READ_ERRORS, zlib.error) as error:
            raise InputError(f"{path}: the field is cut short ({error}); write it again") from error
    else:
        field = np.asarray(nifti_voxels(load_nibabel(path, path.name), path.name), dtype=np.float64)
    bad = field.size - int(np.isfinite(field).sum())
    if bad:
        raise InputError(f"{path}: {bad} values are NaN or infinite; every displacement must be finite")
    if field.shape == (*shape, 3):
        return field
    if field.shape[1:] != shape:
        from scipy.ndimage import zoom

        field = np.stack([zoom(component, 2, order=2) for component in field])
    return np.moveaxis(field, 0, -1)


def _npz_header(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of the only array in an .npz, from its first bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise InputError(f"{path}: holds {len(names)} arrays; Learn2Reg's .npz holds the displacement alone")
            with archive.open(names[0]) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                header_shape, _, dtype = read(file)
                return header_shape, dtype
    except _READ_ERRORS as error:
        raise InputError(f"{path} is not a readable .npz ({str(error).splitlines()[0]}); write it again") from error


def _check(path: Path, found: tuple[int, ...], dtype: np.dtype, shape: Sequence[int]) -> None:
    found, shape = tuple(found), tuple(shape)
    half = tuple(n // 2 for n in shape) if all(n % 2 == 0 for n in shape) else None
    old = path.name.lower().endswith(".npz") and found in ((3, *shape), half and (3, *half))
    if dtype.kind in "iuf" and (found == (*shape, 3) or old):
        return
    wanted = f"(X, Y, Z, 3) = {(*shape, 3)} float32" + (f", or float16 {(3, *half)} of 2020" if half and path.suffix == ".npz" else "")
    hint = ""
    if len(found) == 5:
        hint = f"; it looks like an ITK field in mm (intent {VECTOR_INTENT}), which regkit.geometry.write_learn2reg turns into voxels"
    raise InputError(f"{path}: has shape {found} and dtype {dtype}, but this task needs {wanted}{hint}")
