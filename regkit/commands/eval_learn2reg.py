"""regkit eval --learn2reg: the fields of a whole task measured as Learn2Reg does, printed and written in its form."""

import json
from pathlib import Path
from typing import Any

from regkit.errors import UsageError


def run(config: Path, fields: Path, data: Path, output: Path | None, as_json: bool) -> int:
    """Evaluate, write and print; 0 when done. Raises RegkitError, and then writes nothing."""
    from regkit.commands.console import progress, say
    from regkit.geometry import atomic_path
    from regkit.registration.learn2reg import evaluate_learn2reg
    from regkit.registration.learn2reg_task import find_fields, read_task
    from regkit.registration.save import check_output

    if output is not None:
        if output.is_dir():
            raise UsageError(f"-o {output} is a directory; name the file to write, e.g. {output / 'metrics.json'}")
        check_output(output.parent)
    task = read_task(config, data)
    paths, warnings = find_fields(task, fields)
    with progress(as_json) as callback:
        found, more = evaluate_learn2reg(task, paths, data, lambda fraction, case: callback("evaluate", fraction, case))
    for warning in (*warnings, *more):
        say(warning)
    # NaN and Infinity as Python's json has them: theirs writes them so, and readers of theirs know them.
    text = json.dumps(found, indent=4, allow_nan=True)
    if output is not None:
        with atomic_path(output) as draft:
            draft.write_text(text + "\n", encoding="utf-8")
    if as_json:
        print(text)
    else:
        _print(found)
    return 0


def _print(found: dict[str, Any]) -> None:
    """Three tables: their aggregates, all measures with regkit's aggregates, the cases."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from regkit.report.tables import decimals

    def table(title: str, head: list[str], rows: list[list[str]]) -> Table:
        drawn = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for column, name in enumerate(head):
            drawn.add_column(name, justify="left" if column == 0 else "right")
        for row in rows:
            drawn.add_row(*row)
        return drawn

    def shown(value: float) -> str:
        return decimals(value, 4) if value != float("inf") else "inf"

    theirs, ours = found["aggregates"], found["regkit"]["aggregates"]
    cases = {key: found["cases"][key] | found["regkit"]["cases"][key] for key in found["cases"]}
    rows = [[name, *(shown(value[key]) for key in ("mean", "std", "30"))] for name, value in theirs.items()]
    console = Console()
    console.print(table(f"{found['name']}, as Learn2Reg's evaluation has it", ["", "mean", "std", "30"], rows))
    rows = [[name, str(value["n"]), *(shown(value[key]) for key in ("mean", "std", "worst30"))] for name, value in ours.items()]
    console.print(table("The same and more, cases without a value left out", ["", "n", "mean", "std", "worst 30 %"], rows))
    names = [*theirs, *(name for name in ("sdlogj", "folds") if name in ours)]
    rows = [[key.replace("<--", " "), *(shown(case[name]["mean"]) for name in names)] for key, case in cases.items()]
    console.print(table("Cases", ["fixed, moving", *names], rows))
