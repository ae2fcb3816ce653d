"""A trained network as the pipeline's source of motion: loaded from its weights, and given two scans as its model card wants them.

The network sees both scans in its frame, a grid around the fixed scan (see input.py), the moving one through the initial alignment. Its
displacement is in voxels of the frame and leads to the aligned moving scan: the same as what the pipeline's own stages find on theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import torch

from regkit.errors import InputError, UsageError
from regkit.geometry import Affine, Grid, Image
from regkit.models.input import NetworkInput, Prepared, alignment, frame, prepare, see
from regkit.models.networks import PAIR, reads, registering
from regkit.models.weights import about, find, load_model
from regkit.registration.config import ModelStage
from regkit.registration.motion import Motion


@dataclass(frozen=True)
class View:
    """Two scans as a network is given them."""

    fixed: Prepared
    moving: Prepared
    frame: Grid


@dataclass(frozen=True)
class Predictor:
    """A network that is ready to use, and what there is to say of it."""

    name: str
    network: torch.nn.Module
    input: NetworkInput
    options: Mapping[str, Any]
    """Further arguments of every call."""
    about: Mapping[str, Any]
    """Where the weights came from and their card, for the record of a registration."""
    device: torch.device | str = "cpu"

    @classmethod
    def load(cls, stage: ModelStage, device: torch.device | str = "cpu") -> "Predictor":
        """The network that a configuration names, on a device.

        Raises what `load_model` does, and UsageError for a network that does not register, or a smoothness that it does not take.
        """
        path = find(stage.source)
        network, card = load_model(path)
        name = card.name or path.stem
        if reads(network) != PAIR:
            raise UsageError(
                f"model {name} ({card.network}) does not register: it takes {' and '.join(reads(network))} and gives no displacement; "
                f"give weights of {', '.join(registering())}"
            )
        if stage.smoothness is not None and "smoothness" not in signature(network.forward).parameters:
            raise UsageError(f"model {name} ({card.network}) was trained for one smoothness and takes no other; leave smoothness out")
        return cls(
            name,
            network.to(device),
            card.input if stage.align is None else replace(card.input, align=stage.align),
            {} if stage.smoothness is None else {"smoothness": stage.smoothness},
            about(path, card),
            device,
        )

    def view(self, fixed: Image, moving: Image) -> View:
        """The scans at the network's voxel size, and the frame. Raises UsageError for scans of another number of axes."""
        if fixed.ndim != self.network.dims:
            raise UsageError(f"model {self.name} is for {self.network.dims}-D scans, and these are {fixed.ndim}-D; give another model")
        prepared = [prepare(scan, None, self.input) for scan in (fixed, moving)]
        return View(*prepared, frame(prepared[0], self.input, self.network.multiple))

    def align(self, view: View) -> Affine:
        """The initial alignment, fixed world to moving world, where it takes no optimisation."""
        return alignment(view.fixed, view.moving, self.input)

    def predict(self, view: View, affine: Affine) -> Motion:
        """The network's displacement, on its frame.

        Raises InputError where the network sees nothing of a scan, cannot take what it sees, or gives no numbers.
        """
        seen = {
            "fixed": see(view.fixed, view.frame, device=self.device),
            "moving": see(view.moving, view.frame, affine, device=self.device),
        }
        for name, image in seen.items():
            if not bool(image.any()):
                raise InputError(
                    f"{name}: nothing of it lies in the frame that model {self.name} sees (alignment: {self.input.align}); "
                    'set model.align = "masses" or "affine" in the configuration'
                )
        try:
            with torch.autocast(torch.device(self.device).type, enabled=False):  # whatever the caller's: positions need float32
                displacement = self.network(*seen.values(), **self.options)
        except ValueError as error:  # how networks refuse images
            raise InputError(f"model {self.name} cannot take these scans: {error}") from error
        if not bool(displacement.isfinite().all()):
            raise InputError(f"model {self.name} gave a displacement with NaN or infinity for these scans; its weights cannot be used")
        return Motion(affine, view.frame, displacement)
