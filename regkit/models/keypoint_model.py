"""A trained network in the displacement embedding: loaded from its weights, it makes displacements of the keypoints' similarity maps, where
the pipeline otherwise has PCA, diffusion and soft-min."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from regkit.errors import InputError, UsageError
from regkit.geometry import Grid, Image
from regkit.models import networks
from regkit.models.graphregnet import nearest
from regkit.models.input import NetworkInput
from regkit.models.networks import SIMILARITIES, reads
from regkit.models.weights import about, find, load_card, load_model
from regkit.registration.config import Config, EmbeddingStage, ModelStage
from regkit.registration.descriptors import MIND
from regkit.registration.prepare import Scan, normalise, working_grid


def on_keypoints(stage: ModelStage) -> bool:
    """Whether a configuration's network takes similarities of keypoints. Raises what `load_card` does."""
    return reads(networks.NETWORKS[load_card(stage.source).network]) == SIMILARITIES


@dataclass(frozen=True)
class KeypointModel:
    """A network that is ready to use, and what there is to say of it."""

    name: str
    network: torch.nn.Module
    input: NetworkInput
    """Grey values and voxel size that it was trained on."""
    about: Mapping[str, Any]
    """Where the weights came from and their card, for the record of a registration."""

    @classmethod
    def load(cls, stage: ModelStage, device: torch.device | str = "cpu") -> "KeypointModel":
        """The network that a configuration names, on a device.

        Raises what `load_model` does, and UsageError for options that it does not take.
        """
        path = find(stage.source)
        network, card = load_model(path)
        name = card.name or path.stem
        if stage.smoothness is not None:
            raise UsageError(f"model {name} ({card.network}) was trained for one smoothness and takes no other; leave smoothness out")
        if stage.align not in (None, "affine"):
            raise UsageError(f"model {name} ({card.network}) follows regkit's affine registration; leave model.align out")
        return cls(name, network.to(device), card.input, about(path, card))

    def view(self, fixed: Scan, moving: Scan, scans: Sequence[Image], config: Config) -> tuple[tuple[Scan, Scan], Grid]:
        """Both scans with the network's grey values, and the grid that it works on: the pipeline's, with the network's voxels.

        scans: as they were read. Displacements are learned in voxels: of another size they would be wrong.
        """
        seen = fixed, moving
        if self.input.intensity != config.intensity:
            seen = tuple(Scan(normalise(scan, self.input.intensity), one.mask, one.device) for scan, one in zip(scans, seen))
        return seen, working_grid(seen[0], replace(config, spacing_mm=self.input.spacing_mm or config.spacing_mm))

    def search(self, stage: EmbeddingStage) -> EmbeddingStage:
        """The stage with the features and the search that the network was made for."""
        network = self.network
        search = {name: getattr(network, name) for name in ("search_radius", "stride", "patch_radius")}
        return replace(stage, **search, features=MIND)

    def decode(self, cost: torch.Tensor, keypoints: torch.Tensor, spatial: tuple[int, ...]) -> torch.Tensor:
        """(N, 3) displacements in voxels, from similarity maps (N, L) at keypoints (N, 3), voxels of a grid of this size.

        Raises UsageError for a grid of 2 axes, InputError where the network gives no numbers.
        """
        if len(spatial) != self.network.dims:
            raise UsageError(f"model {self.name} is for {self.network.dims}-D scans, and these are {len(spatial)}-D; give another model")
        place = unit_positions(keypoints, spatial)
        with torch.autocast(cost.device.type, enabled=False):
            found = self.network.displacements(self.network(cost.float(), place, nearest(keypoints, self.network.neighbours)))
        if not bool(found.isfinite().all()):
            raise InputError(f"model {self.name} gave a displacement with NaN or infinity for these scans; its weights cannot be used")
        return found


def unit_positions(keypoints: torch.Tensor, spatial: tuple[int, ...]) -> torch.Tensor:
    """Voxels (N, D) as positions from -1 to 1, corner to corner of the grid."""
    last = torch.tensor(spatial, dtype=torch.float32, device=keypoints.device) - 1
    return 2 * keypoints.float() / last.clamp_min(1) - 1
