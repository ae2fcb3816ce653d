"""Pairs to validate on: what the network sees of them, and what its result is measured by, which is kept as it came.

Overlap and landmark errors are taken on the fixed scan's own grid against its own label map, as any other tool takes them, not in the
network's frame, where labels have been through a resampling that flatters or hurts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from regkit.data.manifest import Case, Pairs
from regkit.data.pairs import see_case
from regkit.data.scans import PreparedScans, read_labels, read_landmarks
from regkit.errors import InputError
from regkit.geometry import Affine, Composite, DisplacementField, Grid, Image, Points, total_displacement
from regkit.models.input import NetworkInput
from regkit.registration.field import extend


@dataclass(frozen=True)
class ValidationPair:
    """A pair in the network's frame, and its label maps and landmarks as they are in their files."""

    fixed_case: Case
    moving_case: Case
    fixed: torch.Tensor
    """(1, 1, *frame.shape) float32."""
    moving: torch.Tensor
    frame: Grid
    affine: Affine
    """Fixed world to moving world, before the network."""
    scan_grids: tuple[Grid, Grid]
    """Of the fixed and the moving label map; where there are none, of the scans in their files."""
    fixed_labels: Image | None
    moving_labels: Image | None
    fixed_points: Points | None
    moving_points: Points | None

    def transform(self, displacement: torch.Tensor) -> Composite:
        """Fixed world to moving world, of the network's displacement (1, D, *frame.shape) in voxels of the frame."""
        return frame_transform(displacement, self.frame, self.affine, self.scan_grids[0])

    def scan_displacement(self, displacement: torch.Tensor) -> torch.Tensor:
        """(1, D, *scan_grids[0].shape): voxels of the fixed grid to voxels of the moving one, of the network's displacement."""
        return to_scan_grid(displacement, self.frame, *self.scan_grids, self.affine)


class ValidationPairs(Dataset):
    """Every ordered pair of the cases that groups and roles allow, or `limit` of them, drawn once with `seed`; no augmentation.

    The frame is `options.shape`, or the fixed scan's own, padded to `multiple`: pairs may have different shapes, and go through the network
    one at a time.

    Raises InputError when no pair is allowed.
    """

    def __init__(
        self,
        scans: PreparedScans,
        cases: Sequence[Case],
        options: NetworkInput,
        *,
        multiple: int = 1,
        limit: int | None = None,
        seed: int = 0,
    ):
        self.scans, self.multiple, self.shape = scans, multiple, options.shape
        pairs = Pairs(cases)
        if len(pairs) == 0:
            raise InputError(f"of {len(cases)} validation scans no two can be paired (columns split, group and role of the manifest)")
        chosen = range(len(pairs))
        if limit is not None and limit < len(pairs):
            chosen = np.sort(np.random.default_rng(seed).choice(len(pairs), limit, replace=False)).tolist()
        self.pairs = [tuple(pairs.cases[at] for at in pairs[k]) for k in chosen]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, n: int) -> ValidationPair:
        fixed, moving = self.pairs[n]
        grid, affine = self.scans.frame(fixed, self.shape, self.multiple), self.scans.alignment(fixed, moving)
        both = bool(fixed.label and moving.label)
        labels = (read_labels(fixed), read_labels(moving)) if both else (None, None)
        marked = bool(fixed.landmarks and moving.landmarks)
        return ValidationPair(
            fixed_case=fixed,
            moving_case=moving,
            fixed=see_case(self.scans[fixed], grid)["image"],
            moving=see_case(self.scans[moving], grid, affine)["image"],
            frame=grid,
            affine=affine,
            scan_grids=tuple(self.scans[case].source if map is None else map.grid for case, map in zip((fixed, moving), labels)),
            fixed_labels=labels[0],
            moving_labels=labels[1],
            fixed_points=read_landmarks(fixed) if marked else None,
            moving_points=read_landmarks(moving) if marked else None,
        )


def frame_transform(displacement: torch.Tensor, frame: Grid, affine: Affine, fixed_grid: Grid) -> Composite:
    """Fixed world to moving world: x -> affine(x + v(x)), v being the displacement (1, D, *frame.shape) in voxels of the frame.

    Where the frame does not hold the whole fixed grid, the displacement fades out beyond it, as when the network registers.
    """
    u = displacement.detach().float().cpu()
    if not frame.contains(fixed_grid.corners).all():
        u, frame = extend(u, frame, fixed_grid)
    return Composite([affine, DisplacementField.from_voxels(u[0].numpy(), frame)])


def to_scan_grid(displacement: torch.Tensor, frame: Grid, fixed_grid: Grid, moving_grid: Grid, affine: Affine) -> torch.Tensor:
    """A displacement in the network's frame, (1, D, *frame.shape) in its voxels, as one from voxels of the fixed grid to voxels of the
    moving grid: (1, D, *fixed_grid.shape) float32 on the displacement's device, with which the ops pull what lies on the moving grid."""
    transform = frame_transform(displacement, frame, affine, fixed_grid)
    return total_displacement(transform, fixed_grid, moving_grid, device=displacement.device)
