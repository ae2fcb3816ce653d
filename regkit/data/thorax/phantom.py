"""A made pair of thorax scans, breathed in and out, whose true displacement is known everywhere."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from regkit import ops
from regkit.data.random_field import smooth_random_field
from regkit.data.thorax import organs
from regkit.data.thorax.anatomy import Anatomy, make_anatomy, tissue
from regkit.data.thorax.motion import breathing, invert
from regkit.data.thorax.tubes import draw_tubes
from regkit.errors import UsageError
from regkit.geometry import Grid, Image, Points, write_image, write_points

_BLUR = 0.5
_TEXTURE_SIGMA = 4.0
_SLAB = 1 << 18
_LANDMARK_MARGIN = 4.0
_LEAST_JACOBIAN = 0.1


@dataclass(frozen=True)
class Phantom:
    """Two scans of one made thorax and the truth between them.

    Attributes:
        fixed: breathed in, HU, float32.
        moving: breathed out, on the same grid.
        fixed_mask, moving_mask: 1 in the lungs, with their vessels, uint8.
        fixed_labels, moving_labels: organs, uint8, numbered as in `regkit.data.thorax.ORGANS`.
        displacement: (1, 3, *shape) voxels; moving(x + displacement(x)) shows what fixed(x) shows. Without folds.
        fixed_points, moving_points: the same branchings of vessels in both scans, in world mm.
    """

    fixed: Image
    moving: Image
    fixed_mask: Image
    moving_mask: Image
    fixed_labels: Image
    moving_labels: Image
    displacement: torch.Tensor
    fixed_points: Points
    moving_points: Points

    def save(self, directory: str | Path) -> None:
        """Writes fixed.nii.gz, fixed_mask.nii.gz, fixed_labels.nii.gz, fixed_points.csv, and the same for moving, into `directory`."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels"):
            write_image(getattr(self, name), directory / f"{name}.nii.gz")
        for name in ("fixed_points", "moving_points"):
            write_points(getattr(self, name), directory / f"{name}.csv")


def phantom(
    shape: tuple[int, int, int] = (192, 160, 160),
    *,
    spacing: float | tuple[float, float, float] | None = None,
    motion_mm: float = 25.0,
    landmarks: int = 300,
    noise_hu: float = 20.0,
    seed: int = 0,
) -> Phantom:
    """Makes a thorax CT breathed in (fixed) and breathed out (moving), with lungs full of branching vessels and airways.

    The anatomy is a function of the position in the breathed-in person. The fixed scan samples it at its voxels, the moving scan at the
    positions that its voxels came from; so both show one anatomy, sharp, and differ by the known displacement and by noise alone.

    Args:
        shape: voxels along left-right, back-front, foot-head (axes RAS).
        spacing: mm, one or one per axis; None lets the thorax (336 x 280 x 320 mm) fill the grid. The world's origin is in the middle of
            the grid.
        motion_mm: longest displacement in the lungs that the grid shows, reached at their base.
        landmarks: pairs wanted, spread over the lungs.
        noise_hu: standard deviation of the noise, white and independent in both scans, in HU.
        seed: the same seed gives the same pair.

    Raises:
        UsageError: the shape or spacing cannot hold a thorax, or the motion is so large that the truth would fold.
    """
    grid = _grid(shape, spacing)
    shape, spacing_mm = grid.shape, np.asarray(grid.spacing)
    person, breath, pattern, grain = (np.random.default_rng(source) for source in np.random.SeedSequence(seed).spawn(4))
    x, y, z = (
        torch.from_numpy(((np.arange(size) - (size - 1) / 2) * step).astype(np.float32)).view([-1 if a == axis else 1 for a in range(3)])
        for axis, (size, step) in enumerate(zip(shape, spacing_mm))
    )
    voxel = torch.tensor(spacing_mm, dtype=torch.float32).view(1, 3, 1, 1, 1)
    displacement = breathing(x, y, z, spacing_mm, motion_mm, breath)[None] / voxel
    least = float(ops.jacobian_summary(displacement).det_min)
    if least < _LEAST_JACOBIAN:
        raise UsageError(f"motion_mm={motion_mm:g} folds the truth, or nearly (least Jacobian determinant {least:.2f}); give 40 or less")
    inverse = invert(displacement)

    anatomy = make_anatomy(person)
    texture = smooth_random_field(shape, tuple(_TEXTURE_SIGMA / spacing_mm), pattern)[None]
    edge = float(spacing_mm.mean())
    fixed_hu, fixed_labels = _scan(anatomy, (x, y, z), None, None, texture, edge, spacing_mm)
    moved_texture = ops.warp(texture, inverse, padding="border")
    moving_hu, moving_labels = _scan(anatomy, (x, y, z), displacement * voxel, inverse * voxel, moved_texture, edge, spacing_mm)

    fixed_points, moving_points = _landmarks(anatomy, landmarks, displacement, spacing_mm)
    images = {}
    for name, hu, labels in (("fixed", fixed_hu, fixed_labels), ("moving", moving_hu, moving_labels)):
        images[name] = Image(_finish(hu, noise_hu, grain), grid, name)
        images[f"{name}_labels"] = Image(labels.numpy(), grid, f"{name}_labels")
        images[f"{name}_mask"] = Image(((labels == 1) | (labels == 2)).numpy().astype(np.uint8), grid, f"{name}_mask")
    return Phantom(**images, displacement=displacement, fixed_points=Points(fixed_points), moving_points=Points(moving_points))


def _grid(shape: tuple[int, int, int], spacing: float | tuple[float, float, float] | None) -> Grid:
    if len(shape) != 3 or min(shape) < 16:
        raise UsageError(f"a thorax needs 3 axes of at least 16 voxels, but shape is {tuple(shape)}; give, say, shape=(64, 56, 56)")
    steps = np.asarray(organs.EXTENT) / shape if spacing is None else np.broadcast_to(np.asarray(spacing, dtype=np.float64), (3,))
    if not (steps > 0).all():
        raise UsageError(f"spacing is {spacing}; give positive mm, one number or one per axis")
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -steps * (np.asarray(shape) - 1) / 2
    return Grid(tuple(int(size) for size in shape), affine)


def _scan(
    anatomy: Anatomy,
    axes: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    forward: torch.Tensor | None,
    backward: torch.Tensor | None,
    texture: torch.Tensor,
    edge: float,
    spacing: np.ndarray,
) -> tuple[torch.Tensor, torch.Tensor]:
    """CT numbers and labels of the anatomy, seen as it is, or moved by `forward` (1, 3, *shape) mm, whose inverse is `backward`."""
    shape = tuple(texture.shape[2:])
    offset = None if backward is None else backward[0]
    tubes = {}
    for name, segments in anatomy.tubes.items():
        centres = (segments.start + segments.end) / 2
        stretch = np.ones_like(centres)
        if forward is not None:
            stretch = _stretch(forward, centres, spacing)
            centres = centres + _sample(forward, centres, spacing)
        tubes[name] = draw_tubes(segments, centres, stretch, shape, spacing, edge, offset)

    hu, labels = torch.empty(shape), torch.empty(shape, dtype=torch.uint8)
    rows = max(1, _SLAB // (shape[1] * shape[2]))
    for first in range(0, shape[0], rows):
        part = slice(first, min(first + rows, shape[0]))
        position = [axes[0][part], axes[1], axes[2]]
        if offset is not None:
            position = [axis + offset[d, part] for d, axis in enumerate(position)]
        slab = {name: coverage[part] for name, coverage in tubes.items()}
        hu[part], labels[part] = tissue(*position, slab, texture[0, 0, part], edge, tuple(hu[part].shape))
    return hu, labels


def _landmarks(anatomy: Anatomy, count: int, displacement: torch.Tensor, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Branchings (count, 3) mm in both scans, spread widely, of vessels that the grid resolves, well inside the lungs and the grid."""
    points = anatomy.branchings
    half = (np.asarray(displacement.shape[2:]) - 1) / 2 * spacing
    deep = organs.lung_depth(*torch.from_numpy(points).unbind(1)).numpy() > _LANDMARK_MARGIN
    moved = points + _sample(displacement * torch.tensor(spacing, dtype=torch.float32).view(1, 3, 1, 1, 1), points, spacing)
    seen = deep & (np.abs(points) < half).all(1) & (np.abs(moved) < half).all(1)
    order = np.flatnonzero(seen)[np.argsort(-anatomy.branching_radii[seen], kind="stable")]
    order = order[: max(2 * count, int((anatomy.branching_radii[order] > spacing.mean() / 2).sum()))]
    if len(order) < count:
        raise UsageError(f"{count} landmarks wanted, but the grid shows {len(order)} branchings; give at most that, or a larger grid")
    chosen = order[_farthest_first(points[order], count)]
    return points[chosen], moved[chosen]


def _farthest_first(points: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` points, each the farthest from those before it."""
    chosen = np.zeros(count, dtype=int)
    distance = np.full(len(points), np.inf)
    for number in range(1, count):
        distance = np.minimum(distance, ((points - points[chosen[number - 1]]) ** 2).sum(1))
        chosen[number] = distance.argmax()
    return chosen


def _sample(field: torch.Tensor, points: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """A field (1, 3, *shape) at points (N, 3) mm, linearly interpolated: (N, 3)."""
    index = points / spacing + (np.asarray(field.shape[2:]) - 1) / 2
    along_first_axis = np.arange(len(points))[:, None] * np.array([1, 0, 0])
    route = torch.from_numpy((index - along_first_axis).astype(np.float32)).T.reshape(1, 3, -1, 1, 1)
    return ops.warp(field, route, padding="border").reshape(3, -1).T.numpy()


def _stretch(field: torch.Tensor, points: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Half extents (N, 3) of what x + field(x) makes of unit balls at points (N, 3) mm: the lengths of its Jacobian's rows."""
    rows = []
    for axis in range(3):
        step = np.eye(3)[axis] * spacing[axis]
        difference = _sample(field, points + step, spacing) - _sample(field, points - step, spacing)
        rows.append(np.eye(3)[axis] + difference / (2 * spacing[axis]))
    return np.linalg.norm(rows, axis=0)


def _finish(hu: torch.Tensor, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Blurs by the scanner's point spread and adds noise."""
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(hu.numpy(), _BLUR, mode="nearest", truncate=3)
    return blurred + np.float32(noise) * rng.standard_normal(blurred.shape, dtype=np.float32)
