"""NIfTI in and out: the header's two opinions on geometry settled, the bytes moved with one copy.

nibabel parses and builds headers; the voxels themselves go through zlib here, because Python's gzip file object reads in small blocks and
stamps the time of day into what it writes, which makes equal results differ in their bytes.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regkit.errors import InputError
from regkit.geometry.grid import Grid
from regkit.geometry.image import Image

if TYPE_CHECKING:
    import nibabel

HEADER_DISAGREEMENT_MM = 0.1
VECTOR_INTENT = 1007
# Level 1 is three times as fast as gzip's default 6 and the file is only a tenth larger: scans are noise to zlib.
COMPRESSION_LEVEL = 1
NIBABEL_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".img.gz", ".mgz", ".mgh")
_READ_ERRORS = (OSError, EOFError, ValueError, zlib.error)
_SLAB_BYTES = 1 << 24


def load_nibabel(path: Path, name: str) -> nibabel.spatialimages.SpatialImage:
    """nibabel's image of a file; InputError, in one line, when it cannot be read."""
    import nibabel

    try:
        if path.name.lower().endswith((".nii.gz", ".nii")):
            raw = path.read_bytes()
            if raw[:2] == b"\x1f\x8b":
                raw = gzip.decompress(raw)
            is_second = raw[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")  # sizeof_hdr 540
            return (nibabel.Nifti2Image if is_second else nibabel.Nifti1Image).from_bytes(raw)
        return nibabel.load(path)
    except (*_READ_ERRORS, *_header_errors()) as error:
        raise _unreadable(path, name, error) from error


def open_nibabel(path: Path, name: str) -> nibabel.spatialimages.SpatialImage:
    """As load_nibabel, with the voxels left in the file until they are asked for; for a look at the header."""
    import nibabel

    try:
        return nibabel.load(path)
    except (*_READ_ERRORS, *_header_errors()) as error:
        raise _unreadable(path, name, error) from error


def _header_errors() -> tuple[type[Exception], ...]:
    import nibabel

    return (
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        nibabel.wrapstruct.WrapStructError,
    )


def _unreadable(path: Path, name: str, error: Exception) -> InputError:
    return InputError(f"{name}: {path} is not a readable image ({_first_line(error)}); write it again")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def image_from_nibabel(source: Any, name: str = "image", header: str = "auto") -> Image:
    """An Image from a nibabel image of one volume; integers without scaling stay integers,
    scaled ones become float32 (float64 from 32 bits on).

    ``header`` chooses the geometry of NIfTI headers: see :func:`regkit.geometry.read_image`.
    """
    import nibabel

    shape = source.shape
    intent = int(source.header["intent_code"]) if isinstance(source, nibabel.Nifti1Pair) else 0
    if intent == VECTOR_INTENT or (len(shape) == 5 and shape[-1] in (2, 3)):
        raise InputError(f"{name}: a displacement or vector field of shape {shape}, not an image; load_transform reads it")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        raise InputError(
            f"{name}: holds {int(np.prod(shape[3:]))} volumes (shape {shape}); extract the one to register, e.g. nibabel.four_to_three"
        )
    if len(shape) < 2 or min(shape) < 1:
        raise InputError(f"{name}: the image is empty (shape {shape})")
    dtype = source.get_data_dtype()
    if dtype.kind not in "iufb":
        raise InputError(
            f"{name}: {'complex' if dtype.kind == 'c' else 'colour'} voxels cannot be registered; give one real number a voxel"
        )
    grid = Grid(shape, nifti_affine(source, shape, name, header))
    return Image(nifti_voxels(source, name).reshape(shape, order="F"), grid, name)


def nifti_voxels(source: Any, name: str) -> np.ndarray:
    """The voxels of a nibabel image as the file holds them, scaling applied."""
    proxy = source.dataobj
    try:
        # Left alone, nibabel scales to float64 always; float32 holds what 16 bits and a slope can say.
        scaled = getattr(proxy, "slope", 1.0) != 1.0 or getattr(proxy, "inter", 0.0) != 0.0
        stored = source.get_data_dtype()
        is_small = stored.itemsize <= 2 or stored == np.float32
        return np.asanyarray(proxy, dtype=np.float32 if is_small else np.float64) if scaled else np.asanyarray(proxy)
    except _READ_ERRORS as error:
        raise InputError(f"{name}: the voxels cannot be read ({_first_line(error)}); the file is cut short, copy it again") from error


def nifti_affine(source: Any, shape: tuple[int, ...], name: str, header: str) -> np.ndarray:
    """The (D+1, D+1) affine of a nibabel image to regkit's world, ``header`` deciding between sform and qform as in read_image."""
    if header not in ("auto", "sform", "qform"):
        raise InputError(f'{name}: header must be "auto", "sform" or "qform", got "{header}"')
    import nibabel

    if not isinstance(source, nibabel.Nifti1Pair):
        return _to_dimension(source.affine, len(shape))
    fields = source.header
    forms = {"sform": fields.get_sform(coded=True)[0], "qform": fields.get_qform(coded=True)[0]}
    forms = {key: form for key, form in forms.items() if form is not None}
    if header != "auto":
        if header not in forms:
            raise InputError(f"{name}: the file has no {header} ({header}_code is 0); drop --header {header}")
        return _to_dimension(forms[header], len(shape))
    if len(forms) == 2 and "qform" in forms:
        far = _corner_distance(forms["sform"], forms["qform"], shape)
        if far > HEADER_DISAGREEMENT_MM:
            raise InputError(
                f"{name}: sform and qform place a corner {far:.3g} mm apart; say which is right: --header sform or --header qform"
            )
    if not forms:
        # No world was ever given. ITK then takes its own axes and a zero origin; so does regkit, lest ITK place the saved result elsewhere.
        zooms = [float(abs(z)) or 1.0 for z in fields.get_zooms()[:3]]
        zooms += [1.0] * (3 - len(zooms))
        return _to_dimension(np.diag([-zooms[0], -zooms[1], zooms[2], 1.0]), len(shape))
    return _to_dimension(forms.get("sform", forms.get("qform")), len(shape))


def _corner_distance(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    solid = (*shape, *(1 for _ in range(3 - len(shape))))
    corners = np.stack(np.meshgrid(*((0, n - 1) for n in solid), [1], indexing="ij"), axis=-1).reshape(-1, 4)
    return float(np.linalg.norm(corners @ (first - second).T, axis=1).max())


def _to_dimension(affine: np.ndarray, ndim: int) -> np.ndarray:
    if ndim == 3:
        return affine
    # ITK writes its 2-D physical coordinates into NIfTI with x and y flipped, as in 3-D; undone here, since regkit's 2-D world is ITK's.
    flat = np.eye(3)
    flat[:2, :2] = -affine[:2, :2]
    flat[:2, 2] = -affine[:2, 3]
    return flat


def write_nifti(path: Path, data: np.ndarray, grid: Grid, *, vectors: bool = False) -> None:
    """Write voxels as .nii or .nii.gz, sform and qform alike (code 1); with shear, which a qform cannot hold, the sform alone.

    ``vectors``: data is (*grid.shape, D) of displacements, stored as ITK does: dim (5, x, y, z, 1, D), intent 1007.
    """
    import nibabel

    affine = grid.affine
    if grid.ndim == 2:
        affine = np.eye(4)
        affine[:2, :2], affine[:2, 3] = -grid.affine[:2, :2], -grid.affine[:2, 2]
    header = nibabel.Nifti1Header() if max(grid.shape) < 2**15 else nibabel.Nifti2Header()
    header.set_data_dtype(data.dtype)
    if vectors:
        data = data.reshape(*grid.shape, *(1 for _ in range(4 - grid.ndim)), grid.ndim)
        header.set_intent("vector")
    header.set_data_shape(data.shape)
    header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    header.set_qform(affine, code=1, strip_shears=True)
    if _corner_distance(header.get_qform(), affine, grid.shape) > 1e-2:
        header.set_qform(affine, code=0, strip_shears=True)
    header.set_sform(affine, code=1)
    is_first = isinstance(header, nibabel.Nifti1Header) and not isinstance(header, nibabel.Nifti2Header)
    header["magic"] = b"n+1" if is_first else b"n+2\0\r\n\x1a\n"
    start = header.binaryblock + bytes(4)  # four zero bytes: no header extension follows
    header["vox_offset"] = len(start)
    start = header.binaryblock + bytes(4)

    with open(path, "wb") as file:
        # wbits 31 is a gzip wrapper without file name and time, so that equal images give equal bytes.
        packer = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, 31) if path.name.lower().endswith(".gz") else None
        file.writelines(packer.compress(block) if packer else block for block in (start, *_slabs(data)))
        if packer:
            file.write(packer.flush())


def _slabs(data: np.ndarray) -> Iterator[bytes]:
    """The voxels' bytes in file order, some slices of the last axis at a time, so that a large image is never held twice."""
    step = max(1, _SLAB_BYTES * data.shape[-1] // max(1, data.nbytes))
    for first in range(0, data.shape[-1], step):
        yield data[..., first : first + step].tobytes(order="F")
