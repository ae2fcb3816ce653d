"""From two scans to what the stages work on: intensities in 0..1, foreground boxes, and the working grid.

The working grid has cubic voxels along the fixed scan's axes and covers the fixed foreground (or mask) with a margin. The moving scan is
brought onto it through the affine, so that the deformable stages see two images of one shape and displacements in one kind of voxel.
"""

from dataclasses import dataclass

import numpy as np
import torch

from regkit.geometry import Affine, Grid, Image, resample, resample_volume, smooth_resample_volume
from regkit.registration.config import Config, Intensity

FOREGROUND = 0.02  # of the intensity range
FEWEST = 16  # voxels along the shortest axis of a level


@dataclass(frozen=True)
class Scan:
    """A scan made ready: intensities in 0..1 as float32, its mask, and its foreground; and where the stages work on it."""

    image: Image
    mask: Image | None  # uint8 on any grid
    device: torch.device | str = "cpu"

    def foreground(self) -> np.ndarray:
        """bool, of the image's shape: the mask, or what is brighter than background."""
        if self.mask is not None:
            return np.asarray(resample(self.mask, self.image.grid, labels=True).data) > 0
        bright = self.image.data > FOREGROUND
        return bright if bright.any() else np.ones_like(bright)


def normalise(image: Image, intensity: Intensity) -> Image:
    """Intensities mapped to 0..1 and clipped, float32.
    Without a window: percentiles of what is above the scan's minimum (the background of stripped scans)."""
    data = np.asarray(image.data, dtype=np.float32)
    if intensity.window is not None:
        low, high = intensity.window
    else:
        values = data[:: max(1, data.shape[0] // 96)]
        above = values[values > values.min()]
        low, high = np.percentile(above if above.size else values, intensity.percentiles)
        background = float(values.min())
        if (values == background).mean() > 0.05:
            low = background
    scale = 1.0 / max(float(high) - float(low), 1e-6 * max(abs(float(high)), 1e-20))
    data = np.clip((data - np.float32(low)) * np.float32(scale), 0, 1)
    return Image(data, image.grid, image.name)


def working_grid(scan: Scan, config: Config) -> Grid:
    """Cubic voxels around the fixed scan's foreground."""
    grid = scan.image.grid
    spacing = np.asarray(grid.spacing)
    size = config.spacing_mm or float(np.prod(spacing) ** (1 / grid.ndim))
    where = scan.foreground()
    lower, upper = [], []
    for axis in range(grid.ndim):
        used = np.flatnonzero(where.any(axis=tuple(a for a in range(grid.ndim) if a != axis)))
        reach = int(np.ceil(config.margin * size / spacing[axis]))
        lower.append(max(0, int(used[0]) - reach))
        upper.append(min(grid.shape[axis], int(used[-1]) + 1 + reach))
    box = grid.crop(lower, upper)
    extent = np.asarray(box.spacing) * box.shape
    size = max(size, float((np.prod(extent) / config.max_voxels) ** (1 / grid.ndim)))
    return box.with_spacing(size)


def level_grid(grid: Grid, shrink: float) -> Grid:
    """The grid of a coarser level: same box, voxels `shrink` times larger, but no axis shorter than FEWEST voxels (or than it is): below
    that little of a scan is left to align."""
    shrink = max(1.0, min(shrink, min(grid.shape) / FEWEST))
    return grid.with_shape([max(1, round(n / shrink)) for n in grid.shape])


def on_grid(scan: Scan, grid: Grid, affine: Affine | None = None) -> torch.Tensor:
    """(1, 1, *shape): the scan's image smoothed to the grid's voxel size and pulled onto it, its border repeated outside."""
    source, volume = scan.image.grid, scan.image.tensor(scan.device)
    if affine is None:
        return smooth_resample_volume(volume, source, grid, padding="border").contiguous()
    ratio = np.asarray(grid.spacing).mean() / np.asarray(source.spacing)
    coarse = source.with_spacing([s * max(1.0, r) for s, r in zip(source.spacing, ratio)])
    return resample_volume(smooth_resample_volume(volume, source, coarse), coarse, grid, affine, padding="border")


def coverage(scan: Scan, grid: Grid, affine: Affine | None, use_mask: bool) -> torch.Tensor | None:
    """(1, 1, *shape) float: 1 where the scan (and its mask, if it counts) has something to say, else 0; None when that is everywhere."""
    if use_mask and scan.mask is not None:
        source, inside = scan.mask.grid, (scan.mask.tensor(scan.device) > 0).to(torch.uint8)
    else:
        source = scan.image.grid
        inside = torch.ones((1, 1, *source.shape), dtype=torch.uint8, device=scan.device)
    covered = resample_volume(inside, source, grid, affine if affine is not None else Affine.identity(grid.ndim), labels=True).float()
    return None if bool((covered > 0).all()) else covered
