"""Patches of registered scans with the displacement in their middle: what a network that regresses displacements learns from.

The motion of each training pair is found once (regkit.registration.ground_truth) and kept beside the prepared scans. Then places are drawn
by how much the fixed scan tells there and how far it moves there (regkit.features.active_points); a sample is one of them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from regkit import ops
from regkit.data.cache import key, load_or_make
from regkit.data.config import Datasets
from regkit.data.pairs import see_case
from regkit.errors import InputError, UsageError
from regkit.features.active_points import active_points, equalised, importance
from regkit.models.similarity_registration import as_seen
from regkit.registration.ground_truth import MapsDemons, ground_truth
from regkit.registration.prepare import FOREGROUND
from regkit.registration.progress import Progress, silent

FORMAT = 1  # of the files in the cache, part of their names
TOGETHER = 16


@dataclass(frozen=True)
class Samples:
    """Which pairs and places a training learns from; the numbers are the paper's."""

    pairs: int = 30
    """Of all ordered pairs of the training scans, drawn once."""
    per_pair: int = 24_000
    """Places of a pair, about."""
    held_out: int = 20_000
    """Of all places, kept back to measure the error on."""
    sampling: Literal["equalised", "even"] = "equalised"
    """By importance and displacement (Eq. 1), or any place in the foreground alike."""
    saturate: bool = False
    """Take places that move by more than the longest displacement as if they moved by that, as the paper's text says; its formula leaves
    them out."""
    preset: str = "mr-brain"
    """That registers the scans by their intensities."""
    demons: MapsDemons = MapsDemons()
    """That aligns their labels afterwards."""

    def __post_init__(self):
        if min(self.pairs, self.per_pair, self.held_out) < 1:
            raise UsageError(
                f"samples.pairs, per_pair and held_out must be at least 1, but are {self.pairs}, {self.per_pair} and {self.held_out}"
            )


@dataclass(frozen=True)
class KnownPair:
    """Two scans in the frame of the fixed one, and the motion between them. Tensors lie in the cache's file: to be read only."""

    fixed: torch.Tensor
    """(1, 1, *frame) float32, 0..1."""
    moving: torch.Tensor
    """The same; both as the CNN sees them."""
    displacement: torch.Tensor
    """(1, 3, *frame) float32, voxels."""
    spacing: torch.Tensor
    """(3,) mm."""
    name: str


def known_pairs(samples: Samples, data: Datasets, seed: int, progress: Progress = silent) -> list[KnownPair]:
    """The pairs that a training learns from, registered where the cache has not got them yet, which takes minutes a pair.

    Raises InputError where a scan has no label map.
    """
    pairs, scans = data.train.pairs, data.train.scans
    if not data.train.labels:
        raise InputError("the motion to learn is found with label maps, and not every scan has one (column label of the manifest)")
    if scans.label_scale != 1:
        raise UsageError(f"the motion to learn is found on the network's grid: data.label_scale must be 1, but is {scans.label_scale}")
    chosen = np.random.default_rng(seed).permutation(len(pairs))[: samples.pairs].tolist()  # more pairs begin with the fewer
    found = []
    for n, k in enumerate(chosen):
        fixed, moving = (pairs.cases[at] for at in pairs[k])
        progress("register pairs", n / len(chosen), f"{fixed.name} <- {moving.name}")
        grid, affine = scans.frame(fixed, data.train.shape, data.train.multiple), scans.alignment(fixed, moving)
        place = [list(grid.shape), grid.affine.tolist(), affine.matrix.tolist()]
        options = [FORMAT, scans.identity(fixed), scans.identity(moving), place, samples.preset, asdict(samples.demons), data.train.labels]

        def register() -> tuple[dict[str, torch.Tensor], dict]:
            still, moves = see_case(scans[fixed], grid), see_case(scans[moving], grid, affine)
            images = as_seen(still["image"], moves["image"])
            maps = still["labels"], moves["labels"]
            u = ground_truth(*images, *maps, data.train.labels, grid, preset=samples.preset, demons=samples.demons)
            tensors = {"fixed": images[0], "moving": images[1], "displacement": u, "spacing": torch.tensor(grid.spacing)}
            return tensors, {"fixed": fixed.name, "moving": moving.name}

        tensors, _ = load_or_make(scans.folder / "motions" / f"{key(*options)}.safetensors", register)
        found.append(KnownPair(**tensors, name=f"{fixed.name} <- {moving.name}"))
    progress("register pairs", 1.0, "")
    return found


def drawn_places(pair: KnownPair, samples: Samples, longest: float, generator: torch.Generator) -> torch.Tensor:
    """(N, 3) int64 voxels of a pair. longest: voxels, tau of Eq. (1)."""
    inside = pair.fixed > FOREGROUND
    if samples.sampling == "even":
        length = pair.displacement.norm(dim=1, keepdim=True)
        return active_points((inside & (length <= longest)).float(), samples.per_pair, generator)
    weight = equalised(pair.displacement, importance(pair.fixed, inside), longest=longest, saturate=samples.saturate)
    return active_points(weight, samples.per_pair, generator)


class PatchDataset(Dataset):
    """Samples n = 0, 1, 2, ..: {"patches": (2 + K, P, P, P), "displacement": (3,) voxels, "spacing": (3,) mm}, float32.

    Every place comes once an epoch, in an order that the seed and the epoch decide, but `TOGETHER` in a row are of one pair: the op works
    on so many points of an image at once, and takes ten times as long for each of them alone. places: (N, 4) int64, the number of the pair
    and the voxel. patch_size (P), kernel_sizes: of regkit.ops.similarity_maps.
    """

    def __init__(self, pairs: list[KnownPair], places: torch.Tensor, seed: int, *, patch_size: int, kernel_sizes: Sequence[int]):
        self.pairs, self.places, self.seed = pairs, places, seed
        self.seen = {"patch_size": patch_size, "kernel_sizes": tuple(kernel_sizes)}
        self._ordered: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, n: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([n])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """Several samples, which is how a DataLoader asks for a batch."""
        places = torch.stack([self._place(int(n)) for n in numbers])
        samples: list[dict[str, torch.Tensor]] = [{} for _ in numbers]
        for number in places[:, 0].unique().tolist():
            pair, mine = self.pairs[number], (places[:, 0] == number).nonzero()[:, 0]
            voxels = places[mine, 1:]
            patches = ops.similarity_maps(pair.fixed, pair.moving, voxels[None].float(), **self.seen)[0]
            i, j, k = voxels.T
            for at, seen, moved in zip(mine.tolist(), patches, pair.displacement[0][:, i, j, k].T):
                samples[at] = {"patches": seen, "displacement": moved, "spacing": pair.spacing}
        return samples

    def _place(self, n: int) -> torch.Tensor:
        epoch, at = divmod(n, len(self.places))
        if self._ordered is None or self._ordered[0] != epoch:
            self._ordered = epoch, self._order(np.random.default_rng((self.seed, epoch)))
        return self.places[self._ordered[1][at]]

    def _order(self, random: np.random.Generator) -> np.ndarray:
        """Numbers of places: blocks of one pair each, shuffled; what fills no block comes last."""
        blocks, rest = [], []
        for number in range(len(self.pairs)):
            mine = random.permutation(np.flatnonzero(self.places[:, 0].numpy() == number))
            whole = len(mine) // TOGETHER * TOGETHER
            blocks.append(mine[:whole].reshape(-1, TOGETHER))
            rest.append(mine[whole:])
        return np.concatenate([random.permutation(np.concatenate(blocks)).ravel(), *rest])


def patch_datasets(
    samples: Samples, pairs: list[KnownPair], longest: float, seed: int, *, patch_size: int, kernel_sizes: Sequence[int]
) -> tuple[PatchDataset, PatchDataset]:
    """The samples to learn from, and those that are held out, drawn from all of them.

    Raises UsageError where fewer would be left to learn from than are held out.
    """
    places = []
    for number, pair in enumerate(pairs):
        voxels = drawn_places(pair, samples, longest, torch.Generator().manual_seed(seed * 1_000_003 + number))
        places.append(torch.cat([torch.full((len(voxels), 1), number), voxels], 1))
    places = torch.cat(places)
    if len(places) < 2 * samples.held_out:
        raise UsageError(
            f"{len(places)} places were drawn of {len(pairs)} pairs, and samples.held_out is {samples.held_out}; draw more, or hold "
            "out fewer"
        )
    shuffled = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))]
    parts = shuffled[samples.held_out :], shuffled[: samples.held_out]
    learned, held_out = (PatchDataset(pairs, part, seed, patch_size=patch_size, kernel_sizes=kernel_sizes) for part in parts)
    return learned, held_out
