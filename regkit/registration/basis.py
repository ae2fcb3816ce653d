"""A PCA basis of similarity maps, fitted over the keypoints of many pairs, and its file.

The covariance of maps with 9261 displacements has 86 million numbers. Here a fixed number of directions is kept instead, and every pair's
maps are folded into them: memory is that of the directions and of one pair, whatever the number of pairs.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from regkit.errors import InputError, UsageError
from regkit.geometry import atomic_path
from regkit.registration.config import EmbeddingStage
from regkit.registration.descriptors import identity

FORMAT = "1"  # of the metadata
SEARCH = ("stride", "search_radius", "patch_radius", "mind_radius", "mind_dilation")  # what the maps depend on


class StreamedPCA:
    """PCA of rows that come in blocks (Ross et al. 2008): after each the `kept` leading directions of all rows so far.

    Keep about twice as many as are wanted: what is dropped at a block is lost, and the last directions suffer first.
    """

    def __init__(self, kept: int):
        if kept < 1:
            raise UsageError(f"a PCA keeps at least 1 direction, but {kept} were asked for")
        self.kept, self.count, self.total = kept, 0, 0.0
        self.mean = self._scaled = None  # (L,); (k, L) directions times singular values

    def add(self, rows: torch.Tensor) -> None:
        """Takes in rows (N, L), N >= 1."""
        rows = rows.double()
        n, mean = len(rows), rows.mean(0)
        stacked = rows - mean
        self.total += float(stacked.square().sum())
        if self.mean is None:
            self.mean, self.count = mean, n
        else:
            # Both means become the common one: one more row carries what that adds to the scatter.
            between = (self.count * n / (self.count + n)) ** 0.5 * (mean - self.mean)
            self.total += float(between.square().sum())
            stacked = torch.cat([self._scaled.double(), stacked, between[None]])
            self.mean, self.count = self.mean + (mean - self.mean) * (n / (self.count + n)), self.count + n
        values, vectors = torch.linalg.eigh(stacked @ stacked.T)  # fewer rows than displacements: the smaller matrix
        keep = min(self.kept, len(stacked), stacked.shape[1])
        self._scaled = (vectors[:, -keep:].T @ stacked).flip(0).float()  # rows s v: the left vectors times the matrix

    def result(self, dimensions: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Mean (L,), the first `dimensions` directions as columns (L, d), and their share of the variance.

        Raises UsageError where fewer directions are there.
        """
        lengths = torch.zeros(0) if self._scaled is None else self._scaled.norm(dim=1)
        there = int((lengths > 1e-6 * lengths.amax()).sum()) if len(lengths) else 0
        if there < dimensions:
            raise UsageError(f"{dimensions} directions of {self.count} maps were asked for, but {there} are there; give more pairs")
        basis = (self._scaled[:dimensions] / lengths[:dimensions, None]).T.contiguous()
        return self.mean.float(), basis, float(lengths[:dimensions].double().square().sum() / self.total)


@dataclass(frozen=True)
class Basis:
    """mean (L,) and directions (L, d), for maps computed as `search` says."""

    mean: torch.Tensor
    directions: torch.Tensor
    search: dict
    """The fields of EmbeddingStage that maps depend on."""
    about: str = ""
    """What it was fitted on."""

    def of(self, stage: EmbeddingStage, dims: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and the first stage.dimensions directions. Raises UsageError where the stage's maps are others, or want more directions."""
        asked = search_of(stage, dims)
        other = [f"{name} {self.search.get(name)} (asked for: {asked[name]})" for name in asked if self.search.get(name) != asked[name]]
        if other:
            raise UsageError(f"the basis {stage.basis} was fitted on maps with {', '.join(other)}")
        if stage.dimensions > self.directions.shape[1]:
            raise UsageError(f"the basis {stage.basis} has {self.directions.shape[1]} dimensions, not {stage.dimensions}")
        return self.mean, self.directions[:, : stage.dimensions]

    def save(self, path: str | Path) -> None:
        """Writes the file, whole or not at all; directions as float16."""
        from safetensors.torch import save

        tensors = {"mean": self.mean.float().contiguous(), "directions": self.directions.half().contiguous()}
        metadata = {"regkit-basis": FORMAT, "search": json.dumps(self.search), "about": self.about}
        with atomic_path(Path(path)) as draft:
            draft.write_bytes(save(tensors, metadata))


def search_of(stage: EmbeddingStage, dims: int) -> dict:
    """What a stage's maps depend on."""
    return {name: getattr(stage, name) for name in SEARCH} | {"dims": dims, "features": identity(stage)}


def load_basis(path: str | Path) -> Basis:
    """Reads a basis. Raises InputError for a file that is not one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("regkit-basis") != FORMAT:
                raise InputError(f"{path} is not a basis of similarity maps; give a file that Basis.save wrote")
            mean, directions = (file.get_tensor(name).float() for name in ("mean", "directions"))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a basis of similarity maps ({error}); give a file that Basis.save wrote") from None
    return Basis(mean, directions, json.loads(metadata["search"]), metadata.get("about", ""))
