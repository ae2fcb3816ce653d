"""Similarity maps of keypoints whose displacement is known: what a network on keypoints learns from.

Pairs of scans come with landmarks, the same ones in both (column landmarks of the manifest): as many as there are, such as the thousands
that a phantom knows. Their places and Foerstner keypoints make the graph; the landmarks alone have a displacement to learn. Maps are made
once and kept beside the prepared scans. What an affine leaves of a breath is small beside what it may leave of a patient's; so further
copies of a pair have their moving scan bent at random, and their landmarks know it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch.utils.data import Dataset

from regkit import ops
from regkit.data.cache import key, load_or_make
from regkit.data.elastic import ElasticAugmentation
from regkit.data.manifest import Case
from regkit.data.pairs import see_case
from regkit.data.scans import PreparedCase, PreparedScans, read_landmarks
from regkit.errors import InputError, UsageError
from regkit.features import foerstner_keypoints
from regkit.geometry import Affine, DisplacementField, Grid
from regkit.registration.config import EmbeddingStage
from regkit.registration.descriptors import identity
from regkit.registration.embedding import cost_volumes
from regkit.registration.progress import Progress, silent

FORMAT = 2  # of the files in the cache, part of their names


@dataclass(frozen=True)
class MapSamples:
    """Which keypoints a training learns from."""

    keypoints: int = 1500
    """Of a pair, beside its landmarks."""
    spread: int = 3
    """Non-maximum suppression of keypoints: window in voxels."""
    per_step: int = 512
    """Of landmarks and keypoints, drawn for a step: as many landmarks as others, where there are."""
    copies: int = 1
    """Maps of each pair to learn from: the scans as they are, and copies whose moving scan is bent, each in its own way."""
    elastic: ElasticAugmentation = field(default_factory=lambda: ElasticAugmentation(probability=1.0, amplitude=8.0, sigma=20.0))
    """How a copy's moving scan is bent, in voxels of the frame."""
    mirror: tuple[int, ...] = (0, 1, 2)
    """Axes along which a step's pair is turned round, maps, places and displacements, each with probability 1/2."""
    mind_radius: int = 1
    mind_dilation: int = 1

    def __post_init__(self):
        if self.copies < 1 or any(axis not in (0, 1, 2) for axis in self.mirror):
            raise UsageError(
                f"samples.copies must be at least 1 and samples.mirror of axes 0, 1 and 2, but are {self.copies} and {list(self.mirror)}"
            )
        if min(self.keypoints, self.spread) < 1 or self.per_step < 2:
            raise UsageError(
                f"samples.keypoints and spread must be at least 1 and per_step at least 2, but are {self.keypoints}, {self.spread} and "
                f"{self.per_step}"
            )


@dataclass(frozen=True)
class KnownMaps:
    """A pair's similarity maps. Tensors lie in the cache's file: to be read only."""

    cost: torch.Tensor
    """(M, L) float16 dissimilarities."""
    keypoints: torch.Tensor
    """(M, 3) int64 voxels of the frame; landmarks come first."""
    moved: torch.Tensor
    """(K, 3) float32 voxels: the displacements of the first K, the landmarks."""
    shape: torch.Tensor
    """(3,) int64, the frame's."""
    spacing: torch.Tensor
    """(3,) mm."""
    name: str


def known_maps(
    pairs: list[tuple[Case, Case]], scans: PreparedScans, shape: tuple[int, ...] | None, samples: MapSamples, search: EmbeddingStage,
    copies: int = 1, progress: Progress = silent,
) -> list[KnownMaps]:  # fmt: skip
    """The maps of every (fixed, moving) pair, made where the cache has not got them yet. search: radius, stride and patch of the maps.

    copies: of every pair; all but the first with the moving scan bent as `samples.elastic` says, by random numbers that follow from the
        cases' names and the copy alone.
    Raises InputError where a scan has no landmarks, a pair other numbers of them, or none lies in the frame.
    """
    found, wanted = [], [(*pair, copy) for copy in range(copies) for pair in pairs]
    for n, (fixed, moving, copy) in enumerate(wanted):
        progress("similarity maps", n / len(wanted), f"{fixed.name} <- {moving.name}")
        grid, affine = scans.frame(fixed, shape, 1), scans.alignment(fixed, moving)
        stage = asdict(search)
        options = {name: stage[name] for name in ("search_radius", "stride", "patch_radius")}
        options |= {name: getattr(samples, name) for name in ("keypoints", "spread", "mind_radius", "mind_dilation")}
        options["features"] = identity(search)
        place = [list(grid.shape), grid.affine.tolist(), affine.matrix.tolist()]
        marks = _same_landmarks(fixed, moving)
        bending = [[copy, asdict(samples.elastic)]] if copy else []
        name = key(FORMAT, scans.identity(fixed), scans.identity(moving), place, [m.tolist() for m in marks], options, *bending)

        def make() -> tuple[dict[str, torch.Tensor], dict]:
            random = torch.Generator().manual_seed(int(key(fixed.name, moving.name, copy)[:12], 16))
            bent = samples.elastic.draw(grid.shape, random) if copy else None
            made = _maps(scans[fixed], scans[moving], marks, grid, affine, bent, samples, search)
            return made, {"fixed": fixed.name, "moving": moving.name}

        tensors, _ = load_or_make(scans.folder / "maps" / f"{name}.safetensors", make)
        found.append(KnownMaps(**tensors, name=f"{fixed.name} <- {moving.name}" + (f", bent ({copy})" if copy else "")))
    progress("similarity maps", 1.0, "")
    return found


def _same_landmarks(fixed: Case, moving: Case) -> list[np.ndarray]:
    """(K, 3) world points of both scans."""
    marks = [read_landmarks(case) for case in (fixed, moving)]
    counts = [0 if m is None else len(m) for m in marks]
    if 0 in counts or counts[0] != counts[1]:
        raise InputError(
            f"{fixed.name} <- {moving.name}: the same landmarks are needed in both scans, but there are {counts[0]} and {counts[1]} "
            "(column landmarks of the manifest)"
        )
    return [m.coordinates for m in marks]


def _maps(
    fixed: PreparedCase,
    moving: PreparedCase,
    marks: list[np.ndarray],
    grid: Grid,
    affine: Affine,
    bent: torch.Tensor | None,
    samples: MapSamples,
    search: EmbeddingStage,
) -> dict[str, torch.Tensor]:
    seen, moves = see_case(fixed, grid), see_case(moving, grid, affine, bent=bent)
    places, gone = grid.to_index(marks[0]), grid.to_index(affine.inverse().apply(marks[1]))
    if bent is not None:  # at y one sees what was at y + bent(y)
        gone = DisplacementField.from_voxels(ops.invert(bent)[0].numpy(), Grid(grid.shape, np.eye(4))).apply(gone)
    truth = gone - places
    voxels = np.floor(places + 0.5).astype(np.int64)
    inside = ((voxels >= 0) & (voxels < np.array(grid.shape))).all(1)
    if not inside.any():
        raise InputError(f"{fixed.case.name} <- {moving.case.name}: no landmark lies in the frame that the network sees")
    landmarks = torch.from_numpy(voxels[inside])
    others = foerstner_keypoints(seen["image"], seen.get("mask"), count=samples.keypoints, spread=samples.spread)
    keypoints = torch.cat([landmarks, others])
    cost = cost_volumes(seen["image"], moves["image"], keypoints, search)
    return {
        "cost": cost.half(), "keypoints": keypoints, "moved": torch.from_numpy(truth[inside]).float(),
        "shape": torch.tensor(grid.shape), "spacing": torch.tensor(np.asarray(grid.spacing), dtype=torch.float32),
    }  # fmt: skip


class MapDataset(Dataset):
    """Samples n = 0, 1, 2, ..: of one pair `per_step` rows of what KnownMaps holds, landmarks first; "known" says how many those are.

    Every pair comes once an epoch, in an order that the seed and the epoch decide; rows, and axes that are turned round, are drawn by the
    seed and n.
    """

    def __init__(self, maps: list[KnownMaps], samples: MapSamples, seed: int):
        self.maps, self.per_step, self.mirror, self.seed = maps, samples.per_step, samples.mirror, seed

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, n: int) -> dict[str, torch.Tensor]:
        epoch, at = divmod(n, len(self.maps))
        maps = self.maps[np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.maps))[at]]
        random, known = np.random.default_rng((self.seed, 1, n)), len(maps.moved)
        marked = min(known, max(self.per_step // 2, self.per_step - (len(maps.cost) - known)))
        others = min(self.per_step - marked, len(maps.cost) - known)
        rows = np.concatenate([random.permutation(known)[:marked], known + random.permutation(len(maps.cost) - known)[:others]])
        rows = torch.from_numpy(rows)
        sample = {
            "cost": maps.cost[rows], "keypoints": maps.keypoints[rows], "moved": maps.moved[rows[:marked]], "shape": maps.shape,
            "known": torch.tensor(marked),
        }  # fmt: skip
        return sample | turned(sample, [axis for axis in self.mirror if random.integers(2)])


def turned(sample: dict[str, torch.Tensor], axes: Sequence[int]) -> dict[str, torch.Tensor]:
    """Maps, places and displacements of a sample as they are found where both scans are turned round along these axes."""
    cost, keypoints, moved = sample["cost"], sample["keypoints"].clone(), sample["moved"].clone()
    side = round(cost.shape[1] ** (1 / 3))
    cost = cost.unflatten(1, (side, side, side)).flip([1 + axis for axis in axes]).flatten(1)
    for axis in axes:
        keypoints[:, axis] = sample["shape"][axis] - 1 - keypoints[:, axis]
        moved[:, axis] *= -1
    return {"cost": cost, "keypoints": keypoints, "moved": moved}
