"""Slices of a scan as a reader expects to see them, whatever the order and direction of the file's axes.

Planes are radiological: the patient's right is on the left of axial and coronal pictures, anterior is up in axial ones and left in sagittal
ones, superior is up. Slices follow the scan's own axes, so an oblique scan is shown unresampled; the letters name the nearest direction.
2-D images have no anatomical directions in their header and are shown as stored: first axis to the right, second axis down.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np

# name, world axis that is constant, world axis drawn to the right, world axis drawn downwards; both run from + to - (from R, A, S away)
_RADIOLOGICAL = (("axial", 2, 0, 1), ("coronal", 1, 0, 2), ("sagittal", 0, 1, 2))
_POSITIVE, _NEGATIVE = "RAS", "LPI"


@dataclass(frozen=True)
class Plane:
    """One family of parallel slices of a grid."""

    name: str
    shape: tuple[int, ...]  # of the grid
    spacing: tuple[float, ...]  # of the grid, mm
    axis: int | None  # array axis that is constant; None in 2-D
    across: int  # array axis drawn to the right
    down: int  # array axis drawn downwards
    flip_across: bool
    flip_down: bool
    letters: tuple[str, str, str, str] | None  # left, right, top, bottom

    @property
    def size(self) -> tuple[int, int]:
        """(columns, rows) of a picture."""
        return self.shape[self.across], self.shape[self.down]

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width."""
        return self.spacing[self.down] / self.spacing[self.across]

    @property
    def extent_mm(self) -> tuple[float, float]:
        """(width, height) of a picture in mm."""
        return self.size[0] * self.spacing[self.across], self.size[1] * self.spacing[self.down]

    def cut(self, array: np.ndarray, index: int) -> np.ndarray:
        """Slice `index` of an array of the grid's shape, as (rows, columns), first row on top."""
        flat = array if self.axis is None else np.take(array, index, axis=self.axis)
        picture = flat.T if self.across < self.down else flat
        return picture[:: -1 if self.flip_down else 1, :: -1 if self.flip_across else 1]

    def indices(self, index: int, step: int = 1) -> np.ndarray:
        """Grid indices of the picture's pixels, (rows, columns, D); every `step`-th of them."""
        columns, rows = np.arange(0, self.size[0], step), np.arange(0, self.size[1], step)
        points = np.zeros((len(rows), len(columns), len(self.shape)))
        points[..., self.across] = (self.size[0] - 1 - columns if self.flip_across else columns)[None, :]
        points[..., self.down] = (self.size[1] - 1 - rows if self.flip_down else rows)[:, None]
        if self.axis is not None:
            points[..., self.axis] = index
        return points

    def to_picture(self, points: np.ndarray) -> np.ndarray:
        """Index points (N, D) to picture coordinates (N, 2): column, row."""
        column, row = points[:, self.across], points[:, self.down]
        return np.stack(
            [self.size[0] - 1 - column if self.flip_across else column, self.size[1] - 1 - row if self.flip_down else row], axis=1
        )

    def crop(self, lower: np.ndarray, upper: np.ndarray) -> tuple[slice, slice]:
        """The (rows, columns) window of a picture that shows the index box [lower, upper)."""
        return _window(lower, upper, self.down, self.size[1], self.flip_down), _window(
            lower, upper, self.across, self.size[0], self.flip_across
        )


def _window(lower: np.ndarray, upper: np.ndarray, axis: int, size: int, flipped: bool) -> slice:
    low, high = int(lower[axis]), int(upper[axis])
    return slice(size - high, size - low) if flipped else slice(low, high)


def planes(grid) -> list[Plane]:
    """The three radiological planes of a 3-D grid, or the one plane of a 2-D grid."""
    shape, spacing = tuple(grid.shape), tuple(grid.spacing)
    if len(shape) == 2:
        return [Plane("image", shape, spacing, None, 0, 1, False, False, None)]
    axes, signs = anatomical_axes(grid)
    found = []
    for name, constant, across, down in _RADIOLOGICAL:
        found.append(
            Plane(
                name,
                shape,
                spacing,
                axes[constant],
                axes[across],
                axes[down],
                signs[across] > 0,
                signs[down] > 0,
                (_POSITIVE[across], _NEGATIVE[across], _POSITIVE[down], _NEGATIVE[down]),
            )
        )
    return found


def anatomical_axes(grid) -> tuple[list[int], list[int]]:
    """For each world axis (R, A, S): the array axis nearest to it, and +1 or -1 for the direction in which that array axis runs."""
    cosines = np.asarray(grid.affine, dtype=float)[:3, :3] / np.asarray(grid.spacing)
    best = max(permutations(range(3)), key=lambda order: sum(abs(cosines[world, axis]) for world, axis in enumerate(order)))
    return list(best), [1 if cosines[world, axis] > 0 else -1 for world, axis in enumerate(best)]


def obliquity_degrees(grid) -> float:
    """The largest angle between an array axis and the anatomical axis that it is drawn for."""
    if len(grid.shape) == 2:
        return 0.0
    axes, _ = anatomical_axes(grid)
    cosines = np.asarray(grid.affine, dtype=float)[:3, :3] / np.asarray(grid.spacing)
    return float(np.degrees(np.arccos(np.clip(min(abs(cosines[world, axis]) for world, axis in enumerate(axes)), 0.0, 1.0))))


def foreground(data: np.ndarray) -> np.ndarray:
    """Voxels that are not padding: the smallest value or the commonest one of the corners, where it fills at least 0.2 % of the scan."""
    padding = np.zeros(data.shape, dtype=bool)
    for value in {data.min(), _corner_value(data)}:
        same = data == value
        if same.mean() >= 0.002:
            padding |= same
    return ~padding if not padding.all() else np.ones(data.shape, dtype=bool)


def background(data: np.ndarray) -> float | None:
    """The corners' commonest value where it fills at least 5 % of the scan, as around a skull-stripped brain; else None."""
    value = _corner_value(data)
    return float(value) if (data == value).mean() >= 0.05 else None


def _corner_value(data: np.ndarray):
    values, counts = np.unique(data[np.ix_(*[[0, -1]] * data.ndim)], return_counts=True)
    return values[np.argmax(counts)]


def bounding_box(mask: np.ndarray, margin: float = 0.04) -> tuple[np.ndarray, np.ndarray]:
    """Index box [lower, upper) around a mask, widened by a share of its size; the whole grid for an empty mask."""
    if not mask.any():
        return np.zeros(mask.ndim, dtype=int), np.array(mask.shape)
    lower, upper = [], []
    for axis in range(mask.ndim):
        held = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        extra = int(np.ceil(margin * (held[-1] + 1 - held[0])))
        lower.append(max(0, held[0] - extra))
        upper.append(min(mask.shape[axis], held[-1] + 1 + extra))
    return np.array(lower), np.array(upper)


def grey_window(data: np.ndarray, box: tuple[slice, ...] | None) -> tuple[float, float]:
    """Grey levels (black, white) for showing a scan: percentiles 0.5 and 99.5 in the box, padding left out.

    A background close below the tissue (0 around a brain, not -2048 around a CT) is black.
    """
    inside, black = foreground(data), background(data)
    if box is not None:
        data, inside = data[box], inside[box]
    values = data[inside]
    if values.size == 0:
        values = data.ravel()
    low, high = (float(value) for value in np.percentile(values[:: max(1, values.size // 500_000)].astype(float), [0.5, 99.5]))
    if black is not None and 0 < low - black < 0.5 * (high - low):
        low = black
    return (low, high) if high > low else (low, low + 1.0)


def to_grey(picture: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """A picture in [0, 1]."""
    return np.clip((picture.astype(np.float32) - window[0]) / (window[1] - window[0]), 0, 1)


def contour_levels(data: np.ndarray, inside: np.ndarray, window: tuple[float, float]) -> list[float]:
    """Grey levels at which edges are drawn: between tissues (3-means of the window's intensities), and against an empty background."""
    values = data[inside]
    values = np.clip(values[:: max(1, values.size // 200_000)].astype(float), *window)
    centres = np.quantile(values, [0.1, 0.5, 0.9])
    for _ in range(30):
        nearest = np.abs(values[:, None] - centres[None]).argmin(axis=1)
        counts = np.bincount(nearest, minlength=3)
        sums = np.bincount(nearest, weights=values, minlength=3)
        centres = np.sort(np.where(counts > 0, sums / np.maximum(counts, 1), centres))
    empty = background(data)
    outline = (empty + centres[0]) / 2 if empty is not None and empty < centres[0] else (centres[0] + centres[1]) / 2
    return sorted({float(level) for level in (outline, (centres[1] + centres[2]) / 2) if window[0] < level < window[1]})


def slice_choices(plane: Plane, mask: np.ndarray, count: int) -> list[int]:
    """`count` slices spread over the middle 76 % of a mask along the plane's normal; a single one cuts it where it is large."""
    if plane.axis is None:
        return [0]
    profile = mask.sum(axis=tuple(a for a in range(mask.ndim) if a != plane.axis)).astype(float)
    if profile.sum() == 0:
        profile[:] = 1.0
    held = np.flatnonzero(profile)
    if count == 1:
        place = np.arange(profile.size)
        away = np.abs(place - (place * profile).sum() / profile.sum()) / profile.size
        return [int(np.argmax(profile / profile.max() - 0.2 * away))]
    places = held[0] + np.linspace(0.12, 0.88, count) * (held[-1] - held[0])
    return [int(round(place)) for place in places]
