"""How scans become what a network sees: the same for training and for registering with the trained weights.

A scan is prepared once: intensities in 0..1, resampled to the network's voxel size. A pair is then seen in the frame of its fixed scan, a
grid of the size that the network wants around the scan's centre; both prepared scans are sampled there by one affine each, which holds the
crop, the padding and the initial alignment (and in training, the augmentation).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from regkit import ops
from regkit.errors import InputError, UsageError
from regkit.geometry import Affine, Grid, Image, resample, smooth_resample
from regkit.registration.affine import mass_center, register_affine
from regkit.registration.config import Config, Intensity
from regkit.registration.prepare import Scan, normalise, working_grid
from regkit.registration.progress import Progress, silent


@dataclass(frozen=True)
class NetworkInput:
    """What a network is given of two scans."""

    intensity: Intensity = Intensity(percentiles=(0.0, 100.0))
    """Grey values to 0..1; by default the scan's minimum and maximum."""
    spacing_mm: float | None = None
    """Size of the network's (cubic) voxels; by default the scan's own voxels, times `shrink`."""
    shrink: float = 1.0
    """2: every second voxel (Learn2Reg 2020's winner), after smoothing."""
    shape: tuple[int, ...] | None = None
    """Voxels that the network sees, around the centre of the fixed scan; by default all, padded to the multiple that the network needs."""
    center: Literal["box", "foreground"] = "box"
    """Of the frame: the middle of the scan, or of what is brighter than its background."""
    align: Literal["header", "centres", "masses", "affine"] = "header"
    """Initial alignment: the files' positions, the middles of the scans, their centres of mass, or regkit's affine registration."""

    def __post_init__(self):
        if self.shrink < 1 or (self.spacing_mm is not None and self.spacing_mm <= 0):
            raise UsageError(f"shrink must be at least 1 and spacing_mm above 0, but they are {self.shrink} and {self.spacing_mm}")


@dataclass(frozen=True)
class Prepared:
    """A scan at the network's voxel size, and its label map on the same grid."""

    image: Image  # float32, 0..1
    labels: Image | None = None  # integers

    def __post_init__(self):
        if self.labels is not None and self.labels.grid != self.image.grid:
            raise InputError(f"{self.labels.name}: its grid is not that of the prepared scan")


def prepare(scan: Image, labels: Image | None, options: NetworkInput) -> Prepared:
    """The whole scan, its intensities scaled, on a grid of the network's voxel size around the same centre."""
    spacing = options.spacing_mm if options.spacing_mm is not None else np.asarray(scan.grid.spacing) * options.shrink
    grid = covering(scan.grid, np.broadcast_to(np.asarray(spacing, dtype=np.float64), (scan.ndim,)))
    # `grid=grid`: what is resampled onto a grid that it matches up to a header's rounding keeps its own.
    image = replace(smooth_resample(normalise(scan, options.intensity), grid, labels=False, padding="border"), grid=grid)
    return Prepared(image, None if labels is None else replace(resample(labels, grid, labels="majority"), grid=grid, name=labels.name))


def covering(grid: Grid, spacing: np.ndarray) -> Grid:
    """The smallest grid of exactly this spacing and an even number of voxels that covers the box of `grid`, around the same centre.

    Frames have even numbers of voxels too, so that a frame around that centre takes whole voxels: nothing is blurred.
    """
    extent = np.asarray(grid.spacing) * grid.shape
    shape = [2 * max(1, int(np.ceil(n - 1e-6))) for n in extent / spacing / 2]
    return around(grid.center, grid.directions * spacing, shape)


def around(center: np.ndarray, axes: np.ndarray, shape: tuple[int, ...] | list[int]) -> Grid:
    """The grid of `shape` voxels around a world point; column d of `axes` (D, D) is the step along array axis d in mm."""
    affine = np.eye(len(shape) + 1)
    affine[:-1, :-1] = axes
    affine[:-1, -1] = center - axes @ ((np.asarray(shape) - 1) / 2)
    return Grid(tuple(int(n) for n in shape), affine)


def frame(fixed: Prepared, options: NetworkInput, multiple: int) -> Grid:
    """The grid on which the network sees a pair with this fixed scan. Every axis is a multiple of `multiple`.

    Raises UsageError where the configured shape is not.
    """
    grid = fixed.image.grid
    shape = options.shape or tuple(-(-n // multiple) * multiple for n in grid.shape)
    if len(shape) != grid.ndim or any(n % multiple or n < 1 for n in shape):
        raise UsageError(f"the network's shape {tuple(shape)} must have {grid.ndim} axes, each a multiple of {multiple}")
    center = grid.center
    if options.center == "foreground":
        lit = Scan(fixed.image, None).foreground()
        ends = [np.flatnonzero(lit.any(axis=tuple(a for a in range(grid.ndim) if a != axis)))[[0, -1]] for axis in range(grid.ndim)]
        # whole voxels away from the middle: see covering()
        shift = np.round(np.mean(ends, axis=1) - (np.asarray(grid.shape) - 1) / 2)
        center = grid.to_world(((np.asarray(grid.shape) - 1) / 2 + shift)[None])[0]
    return around(center, grid.affine[:-1, :-1], shape)


def alignment(fixed: Prepared, moving: Prepared, options: NetworkInput, progress: Progress = silent) -> Affine:
    """Fixed world to moving world, before the network."""
    scans = Scan(fixed.image, None), Scan(moving.image, None)
    if options.align == "header":
        return Affine.identity(fixed.image.ndim)
    if options.align == "affine":
        config = Config(intensity=options.intensity)
        with torch.enable_grad():
            return register_affine(*scans, working_grid(scans[0], config), config, progress)[0]
    centers = [scan.image.grid.center for scan in scans] if options.align == "centres" else [mass_center(scan) for scan in scans]
    matrix = np.eye(fixed.image.ndim + 1)
    matrix[:-1, -1] = centers[1] - centers[0]
    return Affine(matrix)


def sampling(grid: Grid, scan: Grid, affine: Affine | None = None) -> torch.Tensor:
    """(D, D+1) float64: voxels of `grid` to voxels of a scan's grid, through an affine between their worlds."""
    between = np.eye(grid.ndim + 1) if affine is None else affine.matrix
    return torch.from_numpy((np.linalg.inv(scan.affine) @ between @ grid.affine)[:-1])


def see(prepared: Prepared, grid: Grid, affine: Affine | None = None, device: torch.device | str = "cpu") -> torch.Tensor:
    """(1, 1, *grid.shape): the prepared scan in a frame, 0 outside the scan."""
    return ops.warp_affine(prepared.image.tensor(device), sampling(grid, prepared.image.grid, affine).to(device), grid.shape)
