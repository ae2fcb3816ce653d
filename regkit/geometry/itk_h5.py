"""ITK's HDF5 transform files, compressed.

SimpleITK writes them too, but with every vector of a displacement field as three uncompressed float64: 250 MB for a brain at 1 mm. Vectors
are float32 here (a micrometre or better), shuffled and deflated, which readers of ITK's format (SimpleITK, ANTs, Slicer) take as they are.

    /TransformGroup/0                CompositeTransform, when there are several; members follow as 1, 2 ..., the last is applied first
    /TransformGroup/n/TransformType, TransformFixedParameters, TransformParameters
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regkit.geometry.grid import Grid
from regkit.geometry.itk import flip_matrix, lps_flip, set_sitk_grid
from regkit.geometry.transforms import Affine, Composite, DisplacementField, Transform

if TYPE_CHECKING:
    import h5py

CHUNK = 1 << 20  # values compressed at a time


def write_itk_h5(transform: Transform, path: Path) -> None:
    """Writes affines, fields and composites of them. Fields on sheared grids, which ITK does not have, must be resampled before."""
    import h5py
    import SimpleITK

    with h5py.File(path, "w", track_order=False) as file:
        _text(file, "ITKVersion", SimpleITK.Version.ITKVersionString())
        group = file.create_group("TransformGroup")
        parts = transform.parts
        if isinstance(transform, Composite):
            _text(group.create_group("0"), "TransformType", f"CompositeTransform_double_{transform.ndim}_{transform.ndim}")
        for number, part in enumerate(parts, start=int(isinstance(transform, Composite))):
            member = group.create_group(str(number))
            if isinstance(part, Affine):
                _write_affine(member, part)
            else:
                _write_field(member, part)


def _text(group: h5py.Group, name: str, text: str) -> None:
    import h5py

    group.create_dataset(name, data=[text], dtype=h5py.string_dtype("ascii"))


def _write_affine(group: h5py.Group, affine: Affine) -> None:
    matrix, dims = flip_matrix(affine.matrix), affine.ndim
    _text(group, "TransformType", f"AffineTransform_double_{dims}_{dims}")
    group.create_dataset("TransformFixedParameters", data=np.zeros(dims))
    group.create_dataset("TransformParameters", data=np.concatenate([matrix[:-1, :-1].ravel(), matrix[:-1, -1]]))


def _write_field(group: h5py.Group, field: DisplacementField) -> None:
    dims, count = field.ndim, field.vectors.size
    _text(group, "TransformType", f"DisplacementFieldTransform_float_{dims}_{dims}")
    group.create_dataset("TransformFixedParameters", data=_geometry(field.grid))
    values = group.create_dataset(
        "TransformParameters", (count,), np.float32, chunks=(min(count, CHUNK),), compression="gzip", compression_opts=1, shuffle=True
    )
    # Components fastest, then x, y, z: slab by slab along the last axis, so that no second copy of the field is needed.
    signs = lps_flip(dims).astype(np.float32)
    slab = count // field.grid.shape[-1]
    step = max(1, CHUNK // slab)
    for start in range(0, field.grid.shape[-1], step):
        block = np.ascontiguousarray(field.vectors[..., start : start + step].T) * signs
        values[start * slab : start * slab + block.size] = block.ravel()


def _geometry(grid: Grid) -> np.ndarray:
    """Size, origin, spacing, direction: ITK's fixed parameters of a field."""
    import SimpleITK

    image = SimpleITK.Image([1] * grid.ndim, SimpleITK.sitkUInt8)
    set_sitk_grid(image, grid)
    return np.array([*grid.shape, *image.GetOrigin(), *image.GetSpacing(), *image.GetDirection()], dtype=np.float64)
