"""An image in the world: voxels and their grid, and the one place where whatever a caller holds becomes an Image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from regkit.errors import InputError
from regkit.geometry.grid import Grid


@dataclass(frozen=True, eq=False)
class Image:
    """A scan, label map or mask with its place in the world.

    Parameters
    ----------
    data : array of ``grid.shape``, one value a voxel, in array (file) order; real numbers, integers or bool, in the machine's byte order.
    grid : the voxels' grid.
    name : what messages call the image ("fixed", "moving labels").

    Raises
    ------
    InputError : shapes that differ, or complex, text or structured data.
    """

    data: np.ndarray
    grid: Grid
    name: str = "image"

    def __post_init__(self) -> None:
        if self.data.shape != self.grid.shape:
            raise InputError(f"{self.name}: data of shape {self.data.shape} do not fit a grid of shape {self.grid.shape}")
        if self.data.dtype.kind not in "iufb":
            raise InputError(f"{self.name}: {self.data.dtype} voxels cannot be registered; give one real number a voxel")
        if self.data.dtype.itemsize > 8:  # long double, which neither torch nor ITK knows
            object.__setattr__(self, "data", self.data.astype(np.float64))
        if not self.data.dtype.isnative:
            object.__setattr__(self, "data", self.data.astype(self.data.dtype.newbyteorder("=")))

    @classmethod
    def from_array(
        cls, array: np.ndarray, affine: np.ndarray | None = None, spacing: Sequence[float] | float | None = None, name: str = "image"
    ) -> Image:
        """An image from a 2-D or 3-D array and either its affine (D+1, D+1) or its spacing in mm;
        1 mm and the world's origin by default."""
        if affine is not None and spacing is not None:
            raise InputError(f"{name}: give affine or spacing, not both; the affine holds the spacing")
        array = np.asarray(array)
        if affine is None:
            return cls(array, Grid.from_spacing(array.shape, 1.0 if spacing is None else spacing), name)
        return cls(array, Grid(array.shape, affine), name)

    @property
    def is_labels(self) -> bool:
        """Whether the voxels are integers or bool, which regkit takes as labels unless told otherwise."""
        return self.data.dtype.kind in "iub"

    @property
    def ndim(self) -> int:
        return self.grid.ndim

    def tensor(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The voxels as a contiguous (1, 1, *shape) tensor of its own memory."""
        # The file's order is Fortran's; torch transposes with all threads, numpy with one.
        source = torch.from_numpy(self.data if _torch_can_view(self.data) else self.data.copy())
        return torch.empty((1, 1, *self.grid.shape), dtype=dtype, device=device).copy_(source[None, None])

    def crop(self, lower: Sequence[int], upper: Sequence[int]) -> Image:
        """The voxels with ``lower <= index < upper`` (a view), in their place in the world."""
        grid = self.grid.crop(lower, upper)
        return replace(self, data=self.data[tuple(slice(low, high) for low, high in zip(lower, upper, strict=True))], grid=grid)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the image; the format follows the name: see :func:`regkit.geometry.write_image`."""
        from regkit.geometry.write import write_image

        write_image(self, path)


def _torch_can_view(array: np.ndarray) -> bool:
    return array.flags.writeable and min(array.strides, default=0) >= 0


def as_image(source: Any, name: str = "image", *, header: str = "auto") -> Image:
    """Whatever holds an image, as an :class:`Image` called ``name``.

    ``source``: an Image; a path (see :func:`read_image`, which also says what ``header`` does); ``(array, affine)``; a nibabel or SimpleITK
    image; a 2-D or 3-D numpy array; a torch tensor of the same or of shape (1, 1, *spatial).
    Bare arrays and tensors get 1 mm voxels at the world's origin.
    """
    try:
        return _as_image(source, name, header)
    except InputError as error:  # whoever looks at shapes and affines knows not whose they are
        if str(error).startswith(f"{name}:"):
            raise
        raise InputError(f"{name}: {error}") from error


def _as_image(source: Any, name: str, header: str) -> Image:
    if isinstance(source, Image):
        return replace(source, name=name)
    if isinstance(source, (str, os.PathLike)):
        from regkit.geometry.read import read_image

        return read_image(source, name=name, header=header)
    if isinstance(source, tuple):
        if len(source) != 2:
            raise InputError(f"{name}: a tuple must be (array, affine), got {len(source)} items")
        return Image.from_array(_as_array(source[0], name), affine=_as_array(source[1], name), name=name)
    package = type(source).__module__.partition(".")[0]
    if package == "nibabel":
        from regkit.geometry.nifti import image_from_nibabel

        return image_from_nibabel(source, name, header)
    if package == "SimpleITK":
        from regkit.geometry.itk import image_from_sitk

        return image_from_sitk(source, name)
    return Image.from_array(_as_array(source, name), name=name)


def _as_array(source: Any, name: str) -> np.ndarray:
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        if source.dtype == torch.bfloat16:  # numpy has none
            source = source.float()
        source = source.numpy()
        if source.ndim in (4, 5) and source.shape[:2] == (1, 1):
            source = source[0, 0]
    if not isinstance(source, np.ndarray):
        raise InputError(
            f"{name}: cannot make an image of {type(source).__name__}; "
            "give a path, Image, array, (array, affine), nibabel or SimpleITK image"
        )
    return source
