"""regkit data: what is in a manifest, and whether it can be trained and validated on."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from regkit.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from regkit.data.check import Report
    from regkit.data.config import DataConfig
    from regkit.data.inspect import Finding


@dataclass
class Data:
    """Check a manifest and its scans: cases, pairs, labels, leaks between splits, and what a network sees of them.

    Exit code 0 when all can be used, else 3 and a line for each problem.
    """

    manifest: Annotated[Positional[Path], arg(metavar="CSV")]
    """Manifest: a row a scan (image, name, label, mask, landmarks, split, group, role)."""
    network: Annotated[str | None, arg(metavar="NETWORK", help_behavior_hint="")] = None
    """Check for the training of this network; see regkit train."""
    config: Annotated[Path | None, arg(metavar="C", help_behavior_hint="")] = None
    """TOML file of regkit train (its table data counts)."""
    split: Annotated[Literal["train", "validation", "test"] | None, arg(help_behavior_hint="(default: all)")] = None
    """Look at these scans alone."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print JSON instead of tables."""
    quiet: Annotated[bool, arg(help_behavior_hint="")] = False
    """No progress."""

    def run(self) -> int:
        """Check and print; 0 when the manifest is usable, 3 when not. Raises RegkitError."""
        from regkit.commands.console import progress
        from regkit.data.check import check
        from regkit.data.manifest import SPLITS

        config, multiple = self._config()
        with progress(self.quiet) as callback:
            splits = SPLITS if self.split is None else (self.split,)
            report = check(self.manifest, config, multiple=multiple, splits=splits, progress=callback)
        if self.json:
            import json

            from regkit.registration.save import to_json

            print(json.dumps(to_json(as_dict(report)), indent=2, allow_nan=False))
        else:
            from rich.console import Console

            console = Console(highlight=False)
            for part in drawn(report):
                console.print(part, soft_wrap=isinstance(part, str))
        for problem in report.problems:
            print(f"regkit: {' '.join(problem.split())}", file=sys.stderr)
        return 0 if report.usable else InputError.exit_code

    def _config(self) -> "tuple[DataConfig, int]":
        """What is drawn from the manifest, and the multiple that the network needs (1 when none is named)."""
        from regkit.data.config import DataConfig
        from regkit.registration.toml import override, read_toml

        values = {} if self.config is None else read_toml(self.config)
        if self.network is not None:
            from regkit.training.trainings import training

            whole = override(training(self.network).config(), values, str(self.config))
            return whole.data, whole.multiple
        values = values.get("data", values)
        return override(DataConfig(), values, str(self.config)), 1


def as_dict(report: "Report") -> dict[str, Any]:
    """The report as JSON has it."""
    return {
        "manifest": report.manifest,
        "usable": report.usable,
        "problems": report.problems,
        "notes": report.notes,
        "splits": report.splits,
        "frame": report.frame,
        "cases": [_case(finding) for finding in report.findings],
    }


def _case(finding: "Finding") -> dict[str, Any]:
    case, grid = finding.case, finding.grid
    read = {} if grid is None else {"shape": grid.shape, "spacing_mm": grid.spacing, "orientation": grid.orientation}
    return {
        **{name: getattr(case, name) for name in ("name", "split", "group", "role", "image")},
        **read,
        "dtype": finding.dtype,
        "intensities": finding.intensities,
        "labels": finding.labels,
        "landmarks": finding.points,
        "cut": finding.cut,
        "sha256": finding.digest,
    }


def drawn(report: "Report") -> "list[RenderableType]":
    """The report as tables and lines."""
    from rich.markup import escape

    parts: list[RenderableType] = [_split_table(report), _scan_table(report.findings)]
    if any(split["labels"] for split in report.splits.values()):
        parts.append(_label_table(report))
    if report.frame:
        frame = report.frame
        low, high = (" x ".join(f"{step:.3g}" for step in spacing) for spacing in frame["spacing_mm"])
        parts += [
            f"network's frame: {' x '.join(map(str, frame['shape']))} voxels of {low if low == high else f'{low} to {high}'} mm; "
            f"{frame['sample_mb']:.3g} MB a sample; cuts off {100 * frame['cut']['mean']:.2g} % of the foreground "
            f"(at most {100 * frame['cut']['largest']:.2g} %)",
            f"cache of prepared scans: {frame['cache_mb']:.3g} MB",
        ]
    parts += [f"[yellow]note[/yellow] {escape(note)}" for note in report.notes]
    count = len(report.problems)
    return [*parts, "usable" if not count else f"[red]not usable: {count} {'problem' if count == 1 else 'problems'}[/red]"]


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at else "left")
    return table


def _split_table(report: "Report") -> Any:
    table = _table("split", "scans", "groups", "ordered pairs", "label maps", "masks", "landmarks")
    for name, split in report.splits.items():
        groups = [group for group in split["groups"] if group]
        table.add_row(name, *map(str, (split["cases"], len(groups) or "", split["pairs"], *split["with"].values())))
    return table


def _scan_table(findings: "list[Finding]") -> Any:
    """What scans have in common, and how many differ."""
    from collections import Counter

    read = [finding for finding in findings if finding.grid is not None]
    table = _table("scans", "")
    kinds = {
        "shape": ("x".join(map(str, finding.grid.shape)) for finding in read),
        "spacing, mm": (" x ".join(f"{step:.3g}" for step in finding.grid.spacing) for finding in read),
        "orientation": (finding.grid.orientation or "2-D" for finding in read),
        "type": (finding.dtype for finding in read),
    }
    for kind, values in kinds.items():
        counts = Counter(values)
        common = [f"{value} ({count})" for value, count in counts.most_common(3)]
        more = len(counts) - len(common)
        table.add_row(kind, ", ".join(common) + (f" and {more} others" if more else ""))
    for at, name in enumerate(("minimum", "percentile 1", "percentile 99", "maximum")):
        values = [finding.intensities[at] for finding in read]
        if values:
            table.add_row(f"intensity, {name}", f"{min(values):.4g} to {max(values):.4g}")
    return table


def _label_table(report: "Report") -> Any:
    splits = report.splits
    table = _table("label", *(f"{name}: scans, voxels" for name in splits))
    for value in sorted({value for split in splits.values() for value in split["labels"]}):
        found = [split["labels"].get(value, {"cases": 0, "voxels": 0}) for split in splits.values()]
        table.add_row(str(value), *(f"{count['cases']}, {count['voxels']}" for count in found))
    return table
