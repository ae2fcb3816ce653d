"""The robust Hausdorff distance of DeepMind's surface-distance, which Learn2Reg reports: surface elements weigh by their area.

The surface lies on the lattice of the voxels' corners. Where the 2x2x2 voxels around a lattice point are neither all inside nor all
outside, marching cubes puts triangles through the middles of the edges that are cut. Their area weighs the point, and distances go from
point to point. How the corners are turned or mirrored does not change the area, nor does swapping inside and outside; so 256 areas follow
from the surfaces around six kinds of connected corners.
"""

from collections.abc import Iterator
from itertools import product
from math import inf, sqrt

import numpy as np

_CORNERS = list(product((0, 1), repeat=3))
# (corners, edges between them, most edges at one corner) -> area of the surface that cuts them off, for voxels of unit size
_AREAS = {
    (1, 0, 0): sqrt(3) / 8,  # a triangle
    (2, 1, 1): sqrt(2) / 2,  # a rectangle
    (3, 2, 2): 1 / 2 + 3 * sqrt(3) / 8,  # an L: a pentagon that is not flat, in three triangles
    (4, 4, 2): 1.0,  # a face: a square
    (4, 3, 3): 3 * sqrt(3) / 4,  # a corner and its neighbours: a regular hexagon
    (4, 3, 2): (sqrt(2) + sqrt(3)) / 2,  # a chain along all three axes
}


def area_hd95(fixed: np.ndarray, moved: np.ndarray) -> float:
    """max of the 95th area-weighted percentiles of the distances from each surface to the other, in voxels of unit size.

    The percentile is the smallest distance that at least 95 % of the surface's area reaches, taken in order of distance.

    Args:
        fixed, moved: bool arrays of one 3-D shape.

    Returns:
        voxels; infinity where either holds no voxel.

    Source: github.com/google-deepmind/surface-distance (compute_robust_hausdorff), as Learn2Reg calls it, spacing (1, 1, 1).
    """
    from scipy.ndimage import distance_transform_edt

    if not fixed.any() or not moved.any():
        return inf
    box = _box(fixed | moved)
    codes = [_codes(np.pad(mask[box], 1)) for mask in (fixed, moved)]
    surfaces = [(code != 0) & (code != 255) for code in codes]
    found = []
    for here, (code, surface) in enumerate(zip(codes, surfaces)):
        distances = distance_transform_edt(~surfaces[1 - here])[surface]
        areas = _TABLE[code[surface]]
        order = np.lexsort((areas, distances))
        distances, reached = distances[order], np.cumsum(areas[order]) / np.sum(areas[order])
        found.append(distances[min(int(np.searchsorted(reached, 0.95)), len(distances) - 1)])
    return float(max(found))


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The bounding box of the voxels that are set."""
    ranges = []
    for axis in range(mask.ndim):
        at = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        ranges.append(slice(int(at[0]), int(at[-1]) + 1))
    return tuple(ranges)


def _codes(mask: np.ndarray) -> np.ndarray:
    """Which of the eight voxels around each inner lattice point are set, as bits in the order of _CORNERS."""
    code = np.zeros([n - 1 for n in mask.shape], np.uint8)
    for bit, corner in enumerate(_CORNERS):
        code |= mask[tuple(slice(c, c + n) for c, n in zip(corner, code.shape))].astype(np.uint8) << bit
    return code


def _area(code: int) -> float:
    inside = {corner for bit, corner in enumerate(_CORNERS) if code >> bit & 1}
    if len(inside) > 4:
        inside = set(_CORNERS) - inside
    return sum(_AREAS[_kind(part)] for part in _connected(inside))


def _neighbours(corner: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return (tuple(c ^ (axis == turned) for axis, c in enumerate(corner)) for turned in range(3))


def _connected(corners: set[tuple[int, ...]]) -> Iterator[set[tuple[int, ...]]]:
    """The parts that hang together along the cube's edges."""
    left = set(corners)
    while left:
        part, border = set(), {left.pop()}
        while border:
            part |= border
            border = {other for corner in border for other in _neighbours(corner)} & left
            left -= border
        yield part


def _kind(part: set[tuple[int, ...]]) -> tuple[int, int, int]:
    edges = [sum(other in part for other in _neighbours(corner)) for corner in part]
    return len(part), sum(edges) // 2, max(edges)


_TABLE = np.array([_area(code) for code in range(256)])
