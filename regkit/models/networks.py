"""The networks by name, for configurations, model cards and the command line."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from torch import nn

from regkit.errors import UsageError
from regkit.models.conditional_lapirn import ConditionalLapIRN
from regkit.models.lapirn import LapIRN
from regkit.models.voxelmorph import VoxelMorph

NETWORKS: dict[str, type[nn.Module]] = {"lapirn": LapIRN, "conditional-lapirn": ConditionalLapIRN, "voxelmorph": VoxelMorph}


def build(name: str, options: Mapping[str, Any]) -> nn.Module:
    """The network called `name`, made with `options`. Raises UsageError for a name or an option that there is not."""
    if name not in NETWORKS:
        near = get_close_matches(name, NETWORKS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown network {name}; {hint}there are {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name](**options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"network {name}: {error}") from None
