"""Trained networks as files: safetensors with a model card in its metadata.

Loading reads numbers and JSON, and never runs code from the file. The card says which network it is and with what options, what scans it
must be given, and where it came from: data, licence, training configuration, metrics.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from regkit.errors import InputError, UsageError
from regkit.geometry import atomic_path
from regkit.models.input import NetworkInput
from regkit.models.layers import load_strictly
from regkit.models.networks import NETWORKS, build
from regkit.registration.provenance import sha256
from regkit.registration.toml import override

FORMAT = "1"  # of the metadata


@dataclass(frozen=True)
class Card:
    """What a weights file says of itself."""

    network: str
    """A name of NETWORKS."""
    options: dict[str, Any] = field(default_factory=dict)
    """Its arguments."""
    input: NetworkInput = NetworkInput()
    name: str = ""
    description: str = ""
    data: str = ""
    """What it was trained on, with its citation."""
    licence: str = ""
    """Of the weights, as the data's licence has it."""
    training: dict[str, Any] = field(default_factory=dict)
    """The training's configuration."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Of the validation cases."""
    versions: dict[str, str] = field(default_factory=dict)


def save_model(path: str | Path, network: torch.nn.Module, card: Card) -> Path:
    """Writes weights and card, whole or not at all."""
    from safetensors.torch import save

    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"regkit": FORMAT, "card": json.dumps(asdict(card))}
    with atomic_path(path) as draft:
        draft.write_bytes(save(tensors, metadata))  # save_file makes files that their owner alone may read
    return path


def load_model(source: str | Path) -> tuple[torch.nn.Module, Card]:
    """The network, ready to use (eval mode), and its card.

    source: a weights file, or the name of a model that regkit brings (see `shipped`).
    Raises UsageError for a name that there is not, InputError for a file that cannot be used.
    """
    path = find(source)
    card = load_card(path)
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    try:
        network = build(card.network, card.options)
        load_strictly(network, tensors)
    except (UsageError, ValueError) as error:
        raise InputError(f"{path}: its weights are not those of {card.network} with {card.options}: {error}") from None
    return network.eval(), card


def load_card(source: str | Path) -> Card:
    """The card of a weights file or a shipped model. Raises as `load_model` does."""
    path = find(source)
    with _opened(path) as file:
        return read_card(file.metadata() or {}, path)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file for safetensors' reader. Raises InputError when it is not one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a weights file ({error}); give a .safetensors that regkit train wrote") from None


def read_card(metadata: Mapping[str, str], path: Path) -> Card:
    """The card in a file's metadata. Raises InputError."""
    if "card" not in metadata:
        raise InputError(f"{path} holds no model card; give a .safetensors that regkit train wrote")
    if metadata.get("regkit") != FORMAT:
        raise InputError(f"{path} has format {metadata.get('regkit')}, and this regkit reads {FORMAT}; take a newer regkit")
    try:
        values = json.loads(metadata["card"])
        if values.get("network") not in NETWORKS:
            raise InputError(f"{path} is of network {values.get('network')!r}; this regkit has {', '.join(NETWORKS)}")
        seen = values.pop("input", {})
        for table in (seen, seen.get("intensity", {})):  # as TOML has it: JSON's null is an unset option
            table.update({key: "none" for key, value in table.items() if value is None})
        return Card(**values, input=override(NetworkInput(), seen, "input"))
    except (ValueError, AttributeError, TypeError, UsageError) as error:  # not JSON, not tables, or not a card's
        raise InputError(f"{path} holds a model card that cannot be read: {error}") from None


def about(path: Path, card: Card) -> dict[str, Any]:
    """Where a network's weights came from and their card, for the record of a registration."""
    return {"name": card.name or path.stem, "path": str(path), "sha256": sha256(path), "card": asdict(card)}


def shipped() -> dict[str, Path]:
    """The models that come with regkit, by name."""
    home = Path(str(resources.files("regkit.models") / "shipped"))
    return {path.stem: path for path in sorted(home.glob("*.safetensors"))}


def find(source: str | Path) -> Path:
    """The file of a path or of a shipped model's name. Raises UsageError."""
    path = Path(source)
    if path.is_file():
        return path
    known = shipped()
    if str(source) in known:
        return known[str(source)]
    raise UsageError(f"no model {source}: give a .safetensors file, or one of regkit's own: {', '.join(known) or 'none'}")
