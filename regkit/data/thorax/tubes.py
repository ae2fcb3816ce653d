"""Draws tapering tubes into a volume: how much of each voxel a tube covers.

The tubes live in the anatomy's own space. A scan says where each of its voxels lies in that space (its position plus an offset, zero for
the scan that the anatomy was drawn for), so that a deformed scan shows exactly the deformed tubes, and nothing is resampled.

Each short piece of tube is drawn into a small box of voxels around it. Pieces with boxes of one size are drawn together, in chunks of
bounded memory.
"""

import numpy as np
import torch

from regkit.data.thorax.trees import Segments

_CHUNK = 1 << 21
_FAINTEST = 0.01


def draw_tubes(
    segments: Segments,
    centres: np.ndarray,
    stretch: np.ndarray,
    shape: tuple[int, int, int],
    spacing: np.ndarray,
    edge: float,
    offset: torch.Tensor | None = None,
) -> torch.Tensor:
    """Coverage of each voxel by the tubes, in [0, 1].

    A tube of radius r has an edge that falls linearly over `edge` mm. A tube thinner than its edge keeps that edge and grows fainter, by
    the area of its cross-section, as it does in a scanner.

    Args:
        segments: pieces of tube, in mm of the anatomy's space, short (see Segments.subdivided).
        centres: (S, 3) mm, where the middle of each piece is seen in the scan.
        stretch: (S, 3) half extent, along each axis of the scan, of what a unit ball around the middle becomes there; ones where nothing
            moves.
        shape: the scan's grid; its voxels lie `spacing` mm apart, its middle at 0.
        spacing: (3,) mm.
        edge: width of an edge in mm, about the size of a voxel.
        offset: (3, *shape) mm; a voxel at position y shows the anatomy at y + offset(y). None shows the anatomy at y.

    Returns:
        shape, float32.
    """
    coverage = torch.zeros(int(np.prod(shape)), dtype=torch.float32)
    flat_offset = None if offset is None else offset.reshape(3, -1)
    widest = np.maximum(np.maximum(segments.start_radius, segments.end_radius), edge / 2) + edge / 2
    reach = widest + np.linalg.norm(segments.end - segments.start, axis=1) / 2
    boxes = np.floor(reach[:, None] * stretch / spacing + 0.5).astype(int)
    middle = np.rint(centres / spacing + (np.asarray(shape) - 1) / 2).astype(int)
    strength = (np.maximum(segments.start_radius, segments.end_radius) / (edge / 2)) ** 2
    drawn = (strength > _FAINTEST) & (middle + boxes >= 0).all(1) & (middle - boxes < shape).all(1)
    kinds, kind_of = np.unique(boxes, axis=0, return_inverse=True)
    for kind, half in enumerate(kinds):
        window = np.stack(np.meshgrid(*(np.arange(-h, h + 1) for h in half), indexing="ij"), axis=-1).reshape(-1, 3)
        members = np.flatnonzero((kind_of.reshape(-1) == kind) & drawn)
        step = max(1, _CHUNK // len(window))
        for first in range(0, len(members), step):
            _draw(coverage, segments, members[first : first + step], middle, torch.from_numpy(window), shape, spacing, edge, flat_offset)
    return coverage.reshape(shape)


def _draw(
    coverage: torch.Tensor,
    segments: Segments,
    members: np.ndarray,
    middle: np.ndarray,
    window: torch.Tensor,
    shape: tuple[int, int, int],
    spacing: np.ndarray,
    edge: float,
    flat_offset: torch.Tensor | None,
) -> None:
    """Raises `coverage` (flat) to what the pieces `members` cover, each within `window` (W, 3) voxels around its middle."""
    start, end, start_radius, end_radius = (
        torch.from_numpy(array[members])[:, None] for array in (segments.start, segments.end, segments.start_radius, segments.end_radius)
    )
    axis = end - start
    along_scale = axis / axis.square().sum(-1, keepdim=True).clamp_min(1e-6)
    # a box that sticks out of the grid looks at border voxels more than once, which a maximum does not mind
    index = [(torch.from_numpy(middle[members, d])[:, None] + window[:, d]).clamp_(0, shape[d] - 1) for d in range(3)]
    flat = (index[0] * shape[1] + index[1]) * shape[2] + index[2]

    # one array per component: sums over an innermost axis of three are slow
    relative = [(index[d].float() - (shape[d] - 1) / 2) * float(spacing[d]) - start[..., d] for d in range(3)]
    if flat_offset is not None:
        relative = [component + flat_offset[d].take(flat) for d, component in enumerate(relative)]
    along = sum(relative[d] * along_scale[..., d] for d in range(3)).clamp(0, 1)
    distance = sum((relative[d] - along * axis[..., d]).square() for d in range(3)).sqrt()
    radius = torch.lerp(start_radius, end_radius, along)
    drawn = radius.clamp_min(edge / 2)
    value = (0.5 + (drawn - distance) / edge).clamp(0, 1) * (radius / drawn).square()
    covered = value > 0
    coverage.scatter_reduce_(0, flat[covered], value[covered], "amax")
