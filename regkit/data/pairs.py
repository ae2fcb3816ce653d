"""Pairs of scans to learn from: sample n is a function of the seed and n alone, whoever asks for it and in whatever order.

So a run that goes on from a checkpoint, on another number of workers or machines, sees what it would have seen.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from regkit import ops
from regkit.data.augment import AffineAugmentation
from regkit.data.elastic import ElasticAugmentation
from regkit.data.intensity import IntensityAugmentation
from regkit.data.manifest import Case, Pairs
from regkit.data.scans import PreparedCase, PreparedScans
from regkit.errors import InputError, UsageError
from regkit.geometry import Affine, Grid
from regkit.models.input import NetworkInput, sampling

_ORDER, _CHOICE, _AUGMENTATION, _MIRROR, _INTENSITY, _ELASTIC = range(6)  # what random numbers are for: streams that share nothing


class PairDataset(Dataset):
    """Samples n = 0, 1, 2, ... of pairs (fixed, moving) in the network's frame.

    A sample is a dict of tensors (C, *shape), one shape for all:

        "fixed", "moving"                 float32, 0..1, 0 outside the scan
        "fixed_labels", "moving_labels"   where every case has a label map: the smallest of uint8, int16, int32 that holds all labels
                                          (`labels`), on a grid `label_scale` times as fine; 0 outside
        "fixed_mask", "moving_mask"       where every case has a mask: uint8, 0 or 1
        "fixed_change", "moving_change"   with changes = "given": float32 (D, *shape), voxels
        "index"                           n, int64, without axes

    Crop, padding, initial alignment and augmentation are one matrix, so that every scan is interpolated once.

    Parameters
    ----------
    scans : the prepared scans.
    cases : the cases to pair, as their groups and roles allow.
    shape : of the network's frame; see `common_shape`.
    multiple : the network's; every axis of the frame is a multiple of it.
    mode : "all": every pair once an epoch (`epoch` samples), in an order drawn for each epoch; "random": each sample draws its pair.
    augmentation, elastic, intensity : None for none. The fixed and the moving scan each get their own affine, or with `jointly` the same;
        deformations and changes of grey values are each scan's own.
    changes : what turns, scales, bends and mirrors a scan is "applied", or "given" as a displacement that pulls scan and maps into place:
        for networks that want to look at a scan as it is first, once for all its changes. Grey values are changed in any case.
    mirror : array axes along which both scans are turned round, each with probability 1/2.
    samples : what `len` says. Any other n can be asked for, too.

    Raises InputError when no pair is allowed, UsageError for a negative seed.
    """

    def __init__(
        self,
        scans: PreparedScans,
        cases: Sequence[Case],
        shape: Sequence[int],
        *,
        multiple: int = 1,
        mode: Literal["all", "random"] = "all",
        augmentation: AffineAugmentation | None = None,
        jointly: bool = False,
        changes: Literal["applied", "given"] = "applied",
        mirror: Sequence[int] = (),
        elastic: ElasticAugmentation | None = None,
        intensity: IntensityAugmentation | None = None,
        seed: int = 0,
        samples: int | None = None,
    ):
        if seed < 0:
            raise UsageError(f"seed must be 0 or more, but is {seed}")
        self.scans, self.shape, self.multiple, self.mode = scans, tuple(shape), multiple, mode
        if any(not 0 <= axis < len(self.shape) for axis in mirror):
            raise UsageError(f"mirror names axes from 0 to {len(self.shape) - 1}, but is {tuple(mirror)}")
        self.augmentation, self.jointly, self.changes, self.seed = augmentation, jointly, changes, seed
        self.mirror, self.elastic, self.intensity = tuple(mirror), elastic, intensity
        self.pairs = Pairs(cases)
        if len(self.pairs) == 0:
            raise InputError(
                f"of {len(self.pairs.cases)} scans no two can be paired; a pair needs two scans of one group, one fixed and one "
                "moving (columns split, group and role of the manifest)"
            )
        self.samples = len(self.pairs) if samples is None else samples
        self._with_labels, self._with_mask = (all(getattr(case, what) for case in cases) for what in ("label", "mask"))
        self.labels = scans.labels(cases) if self._with_labels else ()
        self._dtype = label_dtype([scans[case] for case in cases]) if self._with_labels else None
        self._permuted: tuple[int, np.ndarray] | None = None

    @property
    def epoch(self) -> int:
        """Samples in an epoch: ordered pairs."""
        return len(self.pairs)

    def __len__(self) -> int:
        return self.samples

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_permuted": None}

    def cases(self, n: int) -> tuple[Case, Case]:
        """The fixed and the moving case of sample n."""
        if n < 0:
            raise IndexError(f"sample {n}: samples count from 0")
        if self.mode == "random":
            k = int(_numpy(self.seed, _CHOICE, n).integers(len(self.pairs)))
        else:
            epoch, place = divmod(n, len(self.pairs))
            if self._permuted is None or self._permuted[0] != epoch:
                self._permuted = epoch, _numpy(self.seed, _ORDER, epoch).permutation(len(self.pairs))
            k = int(self._permuted[1][place])
        fixed, moving = self.pairs[k]
        return self.pairs.cases[fixed], self.pairs.cases[moving]

    @property
    def varies(self) -> bool:
        """Whether a scan that comes again may look another way."""
        drawn = [self.intensity] if self.changes == "given" else [self.augmentation, self.elastic, self.intensity]
        return (bool(self.mirror) and self.changes == "applied") or any(one is not None and one.probability > 0 for one in drawn)

    def views(self, n: int) -> tuple[bytes, bytes]:
        """What the scans of sample n look like follows from these alone, unless they vary: the fixed and the moving one's case, frame and
        alignment."""
        fixed, moving = self.cases(n)
        grid = self.scans.frame(fixed, self.shape, self.multiple)
        place = repr(grid.shape).encode() + grid.affine.tobytes()
        affines = Affine.identity(grid.ndim), self.scans.alignment(fixed, moving)
        first, second = (case.name.encode() + place + affine.matrix.tobytes() for case, affine in zip((fixed, moving), affines))
        return first, second

    def __getitem__(self, n: int) -> dict[str, torch.Tensor]:
        n = int(n)
        fixed, moving = self.cases(n)
        grid = self.scans.frame(fixed, self.shape, self.multiple)
        changes = [None, None]
        if self.augmentation is not None:
            changes = [
                self.augmentation.draw(self.shape, _torch(self.seed, _AUGMENTATION, n, side)) for side in (0, 0 if self.jointly else 1)
            ]
        turned = self._mirrored(n)
        sample = {}
        for side, (name, case, affine) in enumerate((("fixed", fixed, None), ("moving", moving, self.scans.alignment(fixed, moving)))):
            bent = None if self.elastic is None else self.elastic.draw(self.shape, _torch(self.seed, _ELASTIC, n, side))
            change = _then(turned, changes[side])
            if self.changes == "given":
                sample[f"{name}_change"] = _field(change, bent, grid)[0]
                change = bent = None
            seen = see_case(self.scans[case], grid, affine, change, bent)
            sample[name] = seen["image"][0]
            if self.intensity is not None:
                sample[name] = self.intensity.apply(sample[name], _torch(self.seed, _INTENSITY, n, side))
            if self._with_labels:
                sample[f"{name}_labels"] = seen["labels"][0].to(self._dtype)
            if self._with_mask:
                sample[f"{name}_mask"] = seen["mask"][0].to(torch.uint8)
        return sample | {"index": torch.tensor(n)}

    def _mirrored(self, n: int) -> torch.Tensor | None:
        """(D, D+1): voxels of the mirrored frame of sample n to voxels of the frame; None for none."""
        chosen = [axis for axis, turn in zip(self.mirror, _numpy(self.seed, _MIRROR, n).integers(2, size=len(self.mirror))) if turn]
        if not chosen:
            return None
        matrix = torch.eye(len(self.shape), len(self.shape) + 1, dtype=torch.float64)
        for axis in chosen:
            matrix[axis, axis], matrix[axis, -1] = -1, self.shape[axis] - 1
        return matrix


def see_case(
    scan: PreparedCase,
    grid: Grid,
    affine: Affine | None = None,
    change: torch.Tensor | None = None,
    bent: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """A scan in the network's frame: "image" and what there is of "labels" and "mask", (1, 1, *shape).

    affine: the frame's world to the scan's. change: (D, D+1), an augmentation: voxels of what is returned to voxels of the frame; bent: a
    displacement (1, D, *shape) of what is returned, before that.
    Labels that have a finer grid are returned on a finer frame, on the same box. Whatever is asked for, voxels are interpolated once.
    """
    image, maps = _sampled(scan.image, scan.maps, _changed(grid, scan.grid, grid, affine, change), grid, bent)
    seen = {"image": image} | {name: maps[:, at : at + 1] for at, name in enumerate(scan.channels)}
    if scan.fine is not None:
        scale = scan.fine.shape[2] // scan.grid.shape[0]
        finer, frame = (g.with_shape([scale * n for n in g.shape]) for g in (scan.grid, grid))
        nothing = scan.image.new_empty((1, 0, *scan.fine.shape[2:]))
        finely = None if bent is None else ops.upsample(bent, frame.shape, scale, (scale - 1) / 2, scale=scale)
        seen["labels"] = _sampled(nothing, scan.fine, _changed(frame, finer, grid, affine, change), frame, finely)[1]
    return seen


def _sampled(
    image: torch.Tensor, maps: torch.Tensor | None, matrix: torch.Tensor, grid: Grid, bent: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Image and maps at `matrix (x + bent(x))` for every voxel x of the grid."""
    if bent is None:
        found = ops.warp_affine(image, matrix, grid.shape, labels=maps)
        return (found, None) if maps is None else found
    u = _field(matrix, bent, grid)
    return ops.warp(image, u), None if maps is None else ops.warp_labels(maps, u)


def _field(matrix: torch.Tensor | None, bent: torch.Tensor | None, grid: Grid) -> torch.Tensor:
    """`matrix (x + bent(x)) - x` for every voxel x of the grid, (1, D, *shape)."""
    index = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in grid.shape), indexing="ij"))
    place = index if bent is None else index + bent[0]
    if matrix is not None:
        linear, shift = matrix[:, :-1].float(), matrix[:, -1].float().reshape(-1, *[1] * grid.ndim)
        place = torch.einsum("ab,b...->a...", linear, place) + shift
    return (place - index)[None]


def _changed(out: Grid, scan: Grid, frame: Grid, affine: Affine | None, change: torch.Tensor | None) -> torch.Tensor:
    """(D, D+1): voxels of `out` to voxels of `scan`, changed on the way by an augmentation that counts in voxels of `frame`."""
    if change is None:
        return sampling(out, scan, affine)
    matrix = np.eye(out.ndim + 1)
    matrix[:-1] = change.numpy()
    world = Affine(frame.affine @ matrix @ np.linalg.inv(frame.affine))
    return sampling(out, scan, world if affine is None else affine @ world)


def common_shape(scans: PreparedScans, cases: Sequence[Case], options: NetworkInput, multiple: int) -> tuple[int, ...]:
    """The shape of the network's frame for all cases; see `frame_shape`."""
    return frame_shape((scans[case].grid.shape for case in cases), options, multiple)


def frame_shape(shapes: Iterable[Sequence[int]], options: NetworkInput, multiple: int) -> tuple[int, ...]:
    """One shape for the frames of prepared scans of these shapes: the configured one, else the largest along each axis, padded to the
    multiple that the network needs.

    Raises UsageError where the configured shape is no such multiple, InputError where 2-D and 3-D scans are mixed.
    """
    shapes = {tuple(shape) for shape in shapes}
    if len({len(shape) for shape in shapes}) != 1:
        raise InputError("the manifest mixes 2-D and 3-D scans; make one manifest of each")
    dims = len(next(iter(shapes)))
    if options.shape is not None:
        if len(options.shape) != dims or any(n % multiple or n < 1 for n in options.shape):
            raise UsageError(f"the network's shape {tuple(options.shape)} must have {dims} axes, each a multiple of {multiple}")
        return tuple(options.shape)
    return tuple(-(-max(sizes) // multiple) * multiple for sizes in zip(*shapes))


def label_dtype(scans: Sequence[PreparedCase]) -> torch.dtype:
    """Of uint8, int16 and int32 the smallest that holds the labels of all scans."""
    low, high = min(scan.lowest for scan in scans), max(max(scan.values, default=0) for scan in scans)
    return next(
        dtype for dtype in (torch.uint8, torch.int16, torch.int32) if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max
    )


def _then(first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor | None:
    """Two changes of voxels (D, D+1), one after the other, as one."""
    if first is None or second is None:
        return second if first is None else first
    return torch.cat([second[:, :-1] @ first[:, :-1], second[:, :-1] @ first[:, -1:] + second[:, -1:]], 1)


def _numpy(*entropy: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(entropy))


def _torch(*entropy: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
