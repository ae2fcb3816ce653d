"""Transforms to and from files and SimpleITK, such that ANTs, SimpleITK and Slicer reproduce what regkit did.

The files' world is LPS in 3-D; the flip from and to RAS happens here.
ITK applies a composite's members last to first, as regkit does, so order is kept.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regkit.errors import InputError
from regkit.geometry.displacement import as_displacement_field
from regkit.geometry.grid import Grid
from regkit.geometry.itk import flip_matrix, grid_from_sitk, lps_flip, orthonormal_cover, set_sitk_grid
from regkit.geometry.itk_h5 import write_itk_h5
from regkit.geometry.learn2reg import write_learn2reg
from regkit.geometry.nifti import VECTOR_INTENT, load_nibabel, nifti_affine, nifti_voxels, write_nifti
from regkit.geometry.read import sitk_reason
from regkit.geometry.transforms import Affine, Composite, DisplacementField, Transform
from regkit.geometry.write import atomic_path

if TYPE_CHECKING:
    import SimpleITK


def transform_to_sitk(transform: Transform) -> SimpleITK.Transform:
    """The same map as a SimpleITK transform in ITK's physical space (LPS in 3-D).
    Fields on sheared grids are resampled onto one without shear."""
    import SimpleITK

    if isinstance(transform, Composite):
        return SimpleITK.CompositeTransform([transform_to_sitk(part) for part in transform.parts])
    if isinstance(transform, Affine):
        matrix = flip_matrix(transform.matrix)
        result = SimpleITK.AffineTransform(transform.ndim)
        result.SetMatrix(matrix[:-1, :-1].ravel().tolist())
        result.SetTranslation(matrix[:-1, -1].tolist())
        return result
    field = _without_shear(transform)
    vectors = field.vectors.astype(np.float64).T * lps_flip(field.ndim)  # ([z,] y, x, D)
    image = SimpleITK.GetImageFromArray(vectors, isVector=True)
    set_sitk_grid(image, field.grid)
    return SimpleITK.DisplacementFieldTransform(image)


def _without_shear(field: DisplacementField) -> DisplacementField:
    grid = orthonormal_cover(field.grid)
    return field if grid is field.grid else as_displacement_field(field, grid)


def _each_without_shear(transform: Transform) -> Transform:
    parts = [_without_shear(part) if isinstance(part, DisplacementField) else part for part in transform.parts]
    return Composite(parts) if isinstance(transform, Composite) else parts[0]


def transform_from_sitk(source: SimpleITK.Transform) -> Transform:
    """A SimpleITK transform as regkit's: linear ones (of any parametrisation, and chains of them) become one Affine.
    Raises InputError for kinds such as B-splines."""
    import SimpleITK

    ndim = source.GetDimension()
    kind = source.GetName()
    if (
        source.IsLinear()
    ):  # asked first: SimpleITK wraps linear kinds that it has no class for (ANTs' MatrixOffsetTransformBase) in a composite
        matrix = np.eye(ndim + 1)
        matrix[:-1, -1] = source.TransformPoint([0.0] * ndim)
        for axis, unit in enumerate(np.eye(ndim).tolist()):
            matrix[:-1, axis] = source.TransformPoint(unit) - matrix[:-1, -1]
        return Affine(flip_matrix(matrix))
    if kind == "CompositeTransform":
        chain = SimpleITK.CompositeTransform(source)
        chain.FlattenTransform()
        members = [chain.GetNthTransform(i) for i in range(chain.GetNumberOfTransforms())]
        if any(member.GetName() == kind and not member.IsLinear() for member in members):
            raise InputError("the composite holds a transform that SimpleITK has no class for; resample it to a displacement field")
        return Composite([transform_from_sitk(member) for member in members])
    if kind == "DisplacementFieldTransform":
        image = SimpleITK.DisplacementFieldTransform(source).GetDisplacementField()
        vectors = SimpleITK.GetArrayFromImage(image) * lps_flip(ndim)
        return DisplacementField(grid_from_sitk(image), vectors.T)
    raise InputError(f"an ITK {kind} is neither linear nor a displacement field; convert it with SimpleITK.TransformToDisplacementField")


def save_transform(transform: Transform, path: str | os.PathLike[str], *, fixed: Grid | None = None, moving: Grid | None = None) -> None:
    """Write a transform; the suffix names the format. The file appears whole or not at all.

    .h5 : ITK's, any transform, composites in ITK's order, compressed (see itk_h5).
    .tfm, .txt : ITK's text, any transform; large for fields.
    .mat : ITK's and ANTs' affine.
    .nii, .nii.gz : ITK's displacement field (intent 1007, float32, LPS mm in 3-D) on the ``fixed`` grid;
        a lone DisplacementField needs none and keeps its own.
    .npz : Learn2Reg's displacement, (*fixed shape, D) float32 in voxels, such that moved(x) = moving(x + u(x));
        needs ``fixed`` and ``moving``. Export only.

    Raises
    ------
    InputError : an unknown suffix, a field for .mat, or grids that are missing.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        _save_field(transform, path, fixed)
    elif name.endswith(".npz"):
        if fixed is None or moving is None:
            raise InputError(
                f"{path}: .npz counts in voxels and needs both grids: save_transform(transform, path, fixed=grid, moving=grid)"
            )
        write_learn2reg(path, transform, fixed, moving)
    elif name.endswith((".h5", ".tfm", ".txt", ".mat")):
        if name.endswith(".mat"):
            transform = _only_affine(transform, path)
        with atomic_path(path) as draft:
            if name.endswith(".h5"):
                write_itk_h5(_each_without_shear(transform), draft)
            else:
                import SimpleITK

                SimpleITK.WriteTransform(transform_to_sitk(transform), os.fspath(draft))
    else:
        raise InputError(
            f"{path}: unknown transform format; use .h5, .tfm, .txt, .mat (affine), .nii.gz (displacement field) or .npz (Learn2Reg)"
        )


def _only_affine(transform: Transform, path: Path) -> Affine:
    total = Affine.identity(transform.ndim)
    for part in transform.parts:
        if not isinstance(part, Affine):
            raise InputError(f"{path}: .mat holds an affine only, this transform has a displacement field; write .h5")
        total = Affine(total.matrix @ part.matrix)
    return total


def _save_field(transform: Transform, path: Path, fixed: Grid | None) -> None:
    if fixed is not None:
        field = as_displacement_field(transform, fixed)
    elif len(transform.parts) == 1 and isinstance(transform.parts[0], DisplacementField):
        field = transform.parts[0]
    else:
        raise InputError(
            f"{path}: a chain or affine needs a grid to be a displacement field: save_transform(transform, path, fixed=grid), or write .h5"
        )
    field = _without_shear(field)
    signs = lps_flip(field.ndim).astype(np.float32).reshape(-1, *(1 for _ in range(field.ndim)))
    with atomic_path(path) as draft:
        write_nifti(draft, np.moveaxis(field.vectors * signs, 0, -1), field.grid, vectors=True)


def load_transform(path: str | os.PathLike[str]) -> Transform:
    """Read a transform: ITK's .h5, .tfm, .txt or .mat, or a displacement field as NIfTI (5-D, LPS mm, as ITK, ANTs and greedy write it).

    Raises InputError for a missing or unreadable file, a NIfTI file that is no such field, and kinds of transform that regkit has not.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such transform file: {path}")
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return _load_field(path)
    if not name.endswith((".h5", ".hdf5", ".tfm", ".txt", ".mat")):
        raise InputError(f"{path}: unknown transform format; give ITK's .h5, .tfm, .txt or .mat, or a displacement field as .nii.gz")
    import SimpleITK

    try:
        source = SimpleITK.ReadTransform(os.fspath(path))
    except RuntimeError as error:
        raise InputError(f"{path} is not a transform that ITK reads ({sitk_reason(error, path)}); write it again") from error
    try:
        return transform_from_sitk(source)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _load_field(path: Path) -> DisplacementField:
    source = load_nibabel(path, "transform")
    shape = source.shape
    ndim = shape[-1]
    solid = len(shape) == 5 and shape[3] == 1 and (ndim == 3 or (ndim == 2 and shape[2] == 1))
    if not solid:
        raise InputError(f"{path}: shape {shape} is no ITK displacement field; it needs (x, y, z, 1, 3), intent {VECTOR_INTENT}, in LPS mm")
    grid = Grid(shape[:ndim], nifti_affine(source, shape[:ndim], "transform", "auto"))
    vectors = np.moveaxis(nifti_voxels(source, "transform").reshape(*grid.shape, ndim, order="F"), -1, 0)
    signs = lps_flip(ndim).astype(np.float32).reshape(-1, *(1 for _ in range(ndim)))
    return DisplacementField(grid, vectors * signs)
