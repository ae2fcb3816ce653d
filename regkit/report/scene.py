"""What the report's pictures are made of: slices of the fixed, moving and moved scans on the fixed grid, the deformation and its Jacobian.

The moving scan before registration is sampled on the shown slices only, so that a report costs little memory beside the scans.
"""

from dataclasses import dataclass

import numpy as np

from regkit.report import slices


@dataclass(frozen=True)
class Shot:
    """One slice, cropped to the foreground; every array is (rows, columns)."""

    plane: slices.Plane
    index: int
    fixed: np.ndarray  # grey level in [0, 1]
    before: np.ndarray
    after: np.ndarray
    edges: np.ndarray  # fixed scan, smoothed, in its own units
    mask: np.ndarray | None
    window: tuple[slice, slice]  # (rows, columns) of the whole slice

    @property
    def extent_mm(self) -> tuple[float, float]:
        """(width, height) in mm."""
        rows, columns = self.fixed.shape
        return columns * self.plane.spacing[self.plane.across], rows * self.plane.spacing[self.plane.down]


@dataclass(frozen=True)
class Scene:
    """Everything that the image figures need."""

    planes: list[slices.Plane]
    centre: list[Shot]  # one per plane, through the middle of the mask or foreground
    mosaic: list[list[Shot]]  # several per plane
    levels: list[float]  # grey levels of the fixed scan whose contours are drawn
    overlap: float  # share of the fixed scan's box that the moving scan covers before registration
    oblique: float  # degrees
    lower: np.ndarray  # index box that is shown
    upper: np.ndarray


def build(result, per_plane: int = 5) -> Scene:
    """Cut the slices of a result (see regkit.registration.Result)."""
    fixed = np.asarray(result.fixed.data)
    grid = result.fixed.grid
    mask = None if result.fixed_mask is None else _onto(result.fixed_mask, grid)
    moved = np.asarray(result.moved.data)
    # the same place in the body gives comparable grey levels; of the moving scan itself, as interpolation mixes padding with tissue
    place = tuple(slice(0, n) for n in fixed.shape) if mask is None or not mask.any() else _as_slices(*slices.bounding_box(mask))
    fixed_window = slices.grey_window(fixed, place)
    moving_window = slices.grey_window(np.asarray(result.moving.data), _moving_place(result, place))
    seen = slices.foreground(fixed)
    lower, upper = slices.bounding_box(seen)
    focus = seen if mask is None or not mask.any() else mask
    views = slices.planes(grid)
    levels = slices.contour_levels(fixed, focus if mask is None else _box_of(mask), fixed_window)

    def shot(plane: slices.Plane, index: int) -> Shot:
        window = plane.crop(lower, upper)
        moving_slice = _sample(result.moving, grid, plane.indices(index)[window], moving_window[0])
        picture = plane.cut(fixed, index)[window]
        return Shot(
            plane,
            index,
            slices.to_grey(picture, fixed_window),
            slices.to_grey(moving_slice, moving_window),
            slices.to_grey(_blacken(plane.cut(moved, index)[window], result, plane.indices(index)[window], moving_window), moving_window),
            _smooth(np.clip(picture.astype(np.float32), *fixed_window)),
            None if mask is None else plane.cut(mask, index)[window],
            window,
        )

    return Scene(
        views,
        [shot(plane, slices.slice_choices(plane, focus, 1)[0]) for plane in views],
        [[shot(plane, index) for index in slices.slice_choices(plane, focus, per_plane)] for plane in views],
        levels,
        float(grid.overlap(result.moving.grid)),
        slices.obliquity_degrees(grid),
        lower,
        upper,
    )


def determinant(result) -> np.ndarray:
    """det of the physical Jacobian of the whole transform, on the fixed grid: local volume in the moving scan over that in the fixed."""
    from regkit import ops
    from regkit.geometry.displacement import total_displacement

    # counted in fixed voxels on both sides, so that the voxels of the moving scan (their size and handedness) play no part
    displacement = total_displacement(result.transform, result.fixed.grid, result.fixed.grid)
    return ops.jacobian_determinant(displacement)[0, 0].cpu().numpy()


class Deformation:
    """The transform without its best affine fit, phi = A^-1 T: where a point of the fixed space comes from after an affine alignment."""

    def __init__(self, result, scene: Scene):
        self.grid, self.transform = result.fixed.grid, result.transform
        axes = [np.linspace(low, high - 1, min(high - low, 14)) for low, high in zip(scene.lower, scene.upper)]
        lattice = self.grid.to_world(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes)))
        homogeneous = np.concatenate([lattice, np.ones((len(lattice), 1))], axis=1)
        fitted, *_ = np.linalg.lstsq(homogeneous, self.transform.apply(lattice), rcond=None)
        self.linear, self.offset = fitted[:-1].T, fitted[-1]

    def sources(self, shot: Shot, step: int = 1) -> np.ndarray:
        """phi in picture coordinates of the cropped slice, (rows, columns, 2): column, row. `step` thins the slice first."""
        points = shot.plane.indices(shot.index)[shot.window][::step, ::step]
        world = self.transform.apply(self.grid.to_world(points.reshape(-1, points.shape[-1])))
        phi = self.grid.to_index(np.linalg.solve(self.linear, (world - self.offset).T).T)
        picture = shot.plane.to_picture(phi) - [shot.window[1].start, shot.window[0].start]
        return picture.reshape(*points.shape[:2], 2)


def _sample(image, grid, points: np.ndarray, outside: float) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    index = image.grid.to_index(grid.to_world(points.reshape(-1, points.shape[-1])))
    values = map_coordinates(np.asarray(image.data), index.T, output=np.float32, order=1, mode="constant", cval=outside)
    return values.reshape(points.shape[:-1])


def _blacken(moved: np.ndarray, result, points: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """The moved slice, black where the transform leaves the moving scan: its fill of 0 is soft tissue in a CT."""
    if window[0] >= 0:
        return moved
    there = result.transform.apply(result.fixed.grid.to_world(points.reshape(-1, points.shape[-1])))
    return np.where(result.moving.grid.contains(there).reshape(moved.shape), moved, window[0])


def _onto(mask, grid) -> np.ndarray:
    from regkit.geometry.resample import resample

    return np.asarray(resample(mask, grid, labels=True).data) > 0


def _box_of(mask: np.ndarray) -> np.ndarray:
    inside = np.zeros(mask.shape, dtype=bool)
    inside[_as_slices(*slices.bounding_box(mask))] = True
    return inside


def _as_slices(lower: np.ndarray, upper: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(int(low), int(high)) for low, high in zip(lower, upper))


def _moving_place(result, place: tuple[slice, ...]) -> tuple[slice, ...] | None:
    """The box of the moving scan that shows what the box `place` of the fixed scan shows; None (everything) when it shows none of it."""
    axes = [np.linspace(part.start, part.stop - 1, 8) for part in place]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    there = result.moving.grid.to_index(result.transform.apply(result.fixed.grid.to_world(lattice)))
    shape = np.array(result.moving.grid.shape)
    lower, upper = np.floor(there.min(axis=0)).clip(0, shape), np.ceil(there.max(axis=0) + 1).clip(0, shape)
    return _as_slices(lower, upper) if (upper > lower).all() else None


def _smooth(picture: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(picture, 0.9)
