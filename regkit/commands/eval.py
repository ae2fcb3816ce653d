"""regkit eval: how good a registration is, by label maps, landmarks and the deformation itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from regkit.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass
class Eval:
    """Dice, HD95 and ASSD per label, landmark error, folds and SDlogJ of a registration in OUT."""

    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Directory that regkit register wrote."""
    fixed_labels: Annotated[Path | None, arg(metavar="F", help_behavior_hint="")] = None
    """Label map in the fixed space."""
    moving_labels: Annotated[Path | None, arg(metavar="M", help_behavior_hint="")] = None
    """Label map in the moving space; carried over and compared."""
    fixed_points: Annotated[Path | None, arg(metavar="P", help_behavior_hint="")] = None
    """Landmarks in the fixed space (.csv, .fcsv, .mrk.json, elastix .txt)."""
    moving_points: Annotated[Path | None, arg(metavar="Q", help_behavior_hint="")] = None
    """The same landmarks, in the same order, in the moving space."""
    header: Literal["auto", "sform", "qform"] = "auto"
    """NIfTI geometry to trust in the label maps."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print JSON instead of tables."""

    def run(self) -> int:
        """Evaluate and print; 0 when done. Raises RegkitError."""
        for kind, fixed, moving in (("labels", self.fixed_labels, self.moving_labels), ("points", self.fixed_points, self.moving_points)):
            if (fixed is None) != (moving is None):
                given, needed = ("fixed", "moving") if moving is None else ("moving", "fixed")
                raise UsageError(f"--{given}-{kind} needs --{needed}-{kind} to compare with")
        from regkit.geometry import read_image, read_points
        from regkit.registration.evaluate import deformation, evaluate
        from regkit.registration.save import load_run, to_json

        run = load_run(self.out)
        labels = [
            path and read_image(path, name=name, header=self.header)
            for name, path in (("fixed labels", self.fixed_labels), ("moving labels", self.moving_labels))
        ]
        points = [
            path and read_points(path, grid) for path, grid in ((self.fixed_points, run.fixed_grid), (self.moving_points, run.moving_grid))
        ]
        found = evaluate(run.transform, *labels, *points) | deformation(run.info["metrics"])
        if self.json:
            import json

            print(json.dumps(to_json(found), indent=2, allow_nan=False))
        else:
            from rich.console import Console

            console = Console()
            for table in tables(found):
                console.print(table)
        return 0


def tables(found: dict[str, Any]) -> list["RichTable"]:
    """An evaluation as rich tables, by the same rows as the report's."""
    from rich import box
    from rich.table import Table

    from regkit.report.tables import evaluation_tables

    drawn = []
    for part in evaluation_tables(found):
        table = Table(
            title=part.name,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            show_header=bool(part.head),
            show_footer=bool(part.foot),
        )
        width = len(part.rows[0])
        for column in range(width):
            table.add_column(
                part.head[column] if part.head else "", part.foot[column] if part.foot else "", justify="left" if column == 0 else "right"
            )
        for row in part.rows:
            table.add_row(*row)
        drawn.append(table)
    return drawn
