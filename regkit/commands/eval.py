"""regkit eval: how good a registration is, by label maps, landmarks and the deformation itself; or many fields, as Learn2Reg does."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from regkit.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass
class Eval:
    """Dice, HD95 and ASSD per label, landmark error, folds and SDlogJ of a registration in OUT.

    With --learn2reg, of a directory of displacement fields, by Learn2Reg's evaluation.
    """

    out: Annotated[Positional[Path | None], arg(metavar="[OUT]", help_behavior_hint="")] = None
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
    learn2reg: Annotated[Path | None, arg(metavar="CONFIG", help_behavior_hint="")] = None
    """Learn2Reg's evaluation_config.json or dataset.json; takes --fields and --data instead of OUT."""
    fields: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Directory of disp_FFFF_MMMM.nii.gz or .npz (half resolution of 2020, too)."""
    data: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: where CONFIG lies)")] = None
    """Directory of the task, with imagesTr, labelsTr and so on."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="FILE", help_behavior_hint="")] = None
    """With --learn2reg, write metrics.json in their form, with regkit's figures beside."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print JSON instead of tables."""

    def run(self) -> int:
        """Evaluate and print; 0 when done. Raises RegkitError."""
        if self.learn2reg is not None:
            return self._learn2reg()
        alone = [f"--{name}" for name in ("fields", "data", "output") if getattr(self, name) is not None]
        if alone:
            raise UsageError(f"{alone[0]} goes with --learn2reg CONFIG; regkit eval OUT measures one registration")
        if self.out is None:
            raise UsageError(
                "regkit eval needs OUT, the directory that regkit register wrote, or --learn2reg CONFIG; see regkit eval --help"
            )
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

    def _learn2reg(self) -> int:
        for name in ("out", "fixed_labels", "moving_labels", "fixed_points", "moving_points"):
            if getattr(self, name) is not None:
                given = f"OUT ({self.out})" if name == "out" else f"--{name.replace('_', '-')}"
                raise UsageError(f"--learn2reg names its scans itself and measures the fields in --fields; leave out {given}")
        if self.header != "auto":
            raise UsageError(f"--learn2reg counts in voxels and reads no sform or qform; leave out --header {self.header}")
        if self.fields is None:
            raise UsageError("--learn2reg needs --fields DIR, the directory of disp_FFFF_MMMM.nii.gz files")
        from regkit.commands.eval_learn2reg import run

        return run(self.learn2reg, self.fields, self.data or self.learn2reg.parent, self.output, self.json)


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
