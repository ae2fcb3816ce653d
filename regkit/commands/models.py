"""regkit models: the trained networks that come with regkit, and what their model cards say."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from regkit.models.weights import Card


@dataclass
class Models:
    """List the trained networks for regkit register --model, or print the whole card of one."""

    name: Annotated[Positional[str | None], arg(metavar="NAME|WEIGHTS", help_behavior_hint="")] = None
    """One of the list, or a .safetensors file."""

    def run(self) -> int:
        """Print; 0 when done. Raises RegkitError."""
        from regkit.models.weights import find, load_card, shipped

        if self.name is not None:
            path = find(self.name)
            print("\n".join(whole(load_card(path), path)))
        elif known := shipped():
            print("\n\n".join("\n".join(brief(name, load_card(path), path)) for name, path in known.items()))
        else:
            print("no trained networks come with this regkit; regkit register --model takes any .safetensors file of one")
        return 0


def brief(name: str, card: "Card", path: Path) -> list[str]:
    """A model in a few lines."""
    from regkit.report.tables import flatten, number

    metrics = ", ".join(f"{key} {number(value)}" for key, value in flatten(card.metrics).items())
    facts = {"network": _network(card), "about": card.description, "data": card.data, "licence": card.licence, "metrics": metrics}
    return [f"{name} ({_size(path)})", *(f"  {key:<9}{value}" for key, value in facts.items() if value)]


def whole(card: "Card", path: Path) -> list[str]:
    """All that a card says, and the file."""
    from regkit.registration.provenance import sha256
    from regkit.report.tables import card_table

    rows = [["file", f"{path} ({_size(path)})"], ["sha256", sha256(path)], *card_table(asdict(card) | {"network": _network(card)}).rows]
    width = max(len(key) for key, _ in rows) + 2
    return [f"{key:<{width}}{value}" for key, value in rows]


def _network(card: "Card") -> str:
    """Its name, and what is to be known of one that regkit register --model refuses."""
    from regkit.models.networks import NETWORKS, reads, registering

    takes = reads(NETWORKS[card.network])
    return card.network if card.network in registering() else f"{card.network} (takes {' and '.join(takes)}; does not register)"


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
