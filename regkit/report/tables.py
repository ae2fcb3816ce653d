"""The report's tables and headline figures, from the record of a registration and an optional evaluation."""

from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows of text cells, with an optional caption, head and foot."""

    rows: list[list[str]]
    name: str = ""
    head: list[str] = field(default_factory=list)
    foot: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tile:
    """One headline figure. `state` is "good", "poor" or "" (no judgement)."""

    name: str
    value: str
    unit: str = ""
    note: str = ""
    state: str = ""


def number(value: Any, digits: int = 4) -> str:
    """A value as text with about `digits` significant digits."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    if isinstance(value, float):
        return f"{value:.{digits}g}" if isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(number(item, digits) for item in value)
    return str(value)


def decimals(value: float | int | None, count: int) -> str:
    """A measure with a fixed number of decimals, so that columns line up; whole numbers as they are, "–" for what has no value."""
    if isinstance(value, int):
        return str(value)
    return "–" if value is None or not isfinite(value) else f"{value:.{count}f}"


def percent(share: float) -> str:
    """A share as percent: 0 %, 0.0012 %, 34.5 %."""
    return f"{100 * share:.3g} %"


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict as one level, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# keys of Record.metrics (flattened, last part) -> what a reader calls them, unit
_METRIC_NAMES = {
    "folds": ("Folded voxels (det ≤ 0)", "share"),
    "sdlogj": ("SDlogJ", ""),
    "sdlogj_learn2reg": ("SDlogJ, Learn2Reg's +3 shift", ""),
    "det_min": ("Jacobian determinant, smallest", ""),
    "det_max": ("Jacobian determinant, largest", ""),
    "deformation_mm.mean": ("Deformation beyond the affine, mean", "mm"),
    "deformation_mm.max": ("Deformation beyond the affine, largest", "mm"),
    "inverse_consistency_mm.mean": ("Inverse consistency, mean", "mm"),
    "inverse_consistency_mm.p95": ("Inverse consistency, p95", "mm"),
    "inverse_consistency_mm.max": ("Inverse consistency, largest", "mm"),
    "inverse_consistency_mm.outside": ("Voxels taken out of the moving scan", "share"),
    "similarity_before": ("Similarity before", ""),
    "similarity_affine": ("Similarity after the affine", ""),
    "similarity_after": ("Similarity after", ""),
}


def metric(metrics: dict[str, Any], key: str) -> Any:
    """The metric whose dotted name is or ends in `key`; None when it was not measured."""
    return next((value for name, value in flatten(metrics).items() if name == key or name.endswith("." + key)), None)


def deformation_table(metrics: dict[str, Any]) -> Table:
    """Every metric of the deformation: those of _METRIC_NAMES by their reader's name, the others by their key."""
    rows = []
    for key, value in flatten({name: part for name, part in metrics.items() if name != "evaluation"}).items():
        name, unit = next((shown for known, shown in _METRIC_NAMES.items() if key == known or key.endswith("." + known)), (_spell(key), ""))
        if unit == "share" and isinstance(value, (int, float)):
            rows.append([name, percent(float(value))])
        else:
            rows.append([name, f"{number(value)} {unit}".strip()])
    return Table(rows, "Measures of the deformation")


def _spell(key: str) -> str:
    """ "displacement_mm.p95" -> "Displacement, p95 (mm)"."""
    unit = " (mm)" if "_mm" in key else ""
    words = key.replace("_mm", "").replace(".", ", ").replace("_", " ")
    return words[:1].upper() + words[1:] + unit


def evaluation_tables(evaluation: dict[str, Any]) -> list[Table]:
    """Tables of an evaluation: of the labels (a row per label, means as foot), of the landmarks, of what else there is."""
    tables = []
    labels = evaluation.get("labels")
    if labels:
        columns = list(next(iter(labels.values())))
        places = {column: 2 if column.endswith("_mm") else 3 for column in columns}
        rows = [[str(label), *(decimals(values[column], places[column]) for column in columns)] for label, values in labels.items()]
        foot = ["mean", *(decimals(evaluation["mean"][column], places[column]) for column in columns)]
        heads = {"dice": "Dice", "dice_before": "before", "hd95_mm": "HD95, mm", "assd_mm": "ASSD, mm"}
        tables.append(Table(rows, "Labels", ["label", *(heads.get(column, column) for column in columns)], foot))
    tre = evaluation.get("tre_mm")
    if tre:
        rows = [[key, *(decimals(tre[when][key], 2) for when in ("before", "after"))] for key in tre["after"]]
        tables.append(Table(rows, "Landmark error (TRE), mm", ["", "before", "after"]))
    rest = {key: value for key, value in evaluation.items() if key not in ("labels", "mean", "tre_mm") and value is not None}
    if rest:
        tables.append(Table(deformation_table(rest).rows, "Deformation"))
    return tables


def input_table(result: Any) -> Table:
    """Shape, spacing, orientation and type of every scan that went in."""
    recorded = result.record.inputs
    rows = []
    for name, image in (
        ("fixed", result.fixed),
        ("moving", result.moving),
        ("fixed mask", result.fixed_mask),
        ("moving mask", result.moving_mask),
    ):
        if image is None:
            continue
        known = recorded.get(name, recorded.get(name.replace(" ", "_"), {}))
        source = known.get("path")
        rows.append(
            [
                name,
                Path(source).name if source else "in memory",
                " × ".join(map(str, image.grid.shape)),
                " × ".join(f"{step:.4g}" for step in image.grid.spacing),
                image.grid.orientation or "2-D",
                str(known.get("dtype", image.data.dtype)),
                (known.get("sha256") or "–")[:12],
            ]
        )
    return Table(rows, "Scans", ["", "file", "voxels", "spacing, mm", "orientation", "type", "sha256"])


def card_table(card: dict[str, Any], name: str = "", skip: tuple[str, ...] = ()) -> Table:
    """A model card's entries that say something, nested ones joined by dots."""
    said = flatten({key: value for key, value in card.items() if key not in skip})
    return Table([[key, number(value)] for key, value in said.items() if value not in (None, "", {}, [])], name)


def model_tables(record: Any) -> list[Table]:
    """The trained network that found the motion, and the one whose features were compared, with their files and what their cards say; none
    where there was no network.
    """
    tables = []
    for title, about in (("Model", record.model), ("Features", record.features)):
        if about is not None:
            facts = card_table(about["card"], title, skip=("name", "options", "input", "training", "versions"))
            rows = [["name", about["name"]], ["file", Path(about["path"]).name], ["sha256", about["sha256"][:12]]]
            tables.append(Table(rows + facts.rows, title))
    return tables


def total_seconds(seconds: dict[str, float]) -> float:
    """The whole time of a Record's seconds, which name it beside those of the stages."""
    return seconds["total"] if "total" in seconds else sum(seconds.values())


def detail_tables(record: Any) -> list[Table]:
    """Times, settings of the run, versions."""
    stages = [[stage, f"{seconds:.2f} s"] for stage, seconds in record.seconds.items() if stage != "total"]
    times = Table(stages, "Time", foot=["total", f"{total_seconds(record.seconds):.2f} s"])
    run = Table(
        [
            ["device", str(record.device)],
            ["threads", number(record.threads)],
            ["seed", number(record.seed)],
            ["peak memory", f"{record.peak_memory_mb:.0f} MB"],
            *([] if record.peak_gpu_memory_mb is None else [["peak memory of the GPU", f"{record.peak_gpu_memory_mb:.0f} MB"]]),
        ],
        "Run",
    )
    return [times, run, Table([[name, str(version)] for name, version in record.versions.items()], "Versions")]


def tiles(result: Any, overlap: float, evaluation: dict[str, Any]) -> list[Tile]:
    """The headline figures, most telling first."""
    metrics, found = result.record.metrics, []
    tre = evaluation.get("tre_mm")
    if tre:
        after, before = tre["after"]["mean"], tre["before"]["mean"]
        found.append(Tile("Landmark error", f"{after:.2f}", "mm", f"mean TRE, from {before:.2f}", "good" if after < before else "poor"))
    dice = evaluation.get("mean", {}).get("dice")
    if dice is not None:
        found.append(Tile("Dice", f"{dice:.3f}", "", f"mean of {len(evaluation.get('labels', {}))} labels"))
    before, after = metric(metrics, "similarity_before"), metric(metrics, "similarity_after")
    if before is not None and after is not None:
        found.append(Tile("Similarity", number(after, 3), "", f"from {number(before, 3)}", "" if after >= before else "poor"))
    folds = metric(metrics, "folds")
    if folds is not None:
        found.append(
            Tile(
                "Folded voxels",
                percent(folds).removesuffix(" %"),
                "%",
                "Jacobian determinant ≤ 0",
                "good" if folds == 0 else "poor" if folds > 1e-3 else "",
            )
        )
    sdlogj = metric(metrics, "sdlogj")
    if sdlogj is not None:
        found.append(Tile("SDlogJ", number(sdlogj, 3), "", "roughness of the deformation"))
    inverse = metric(metrics, "inverse_consistency_mm.mean")
    if inverse is not None:
        found.append(Tile("Inverse consistency", f"{inverse:.2g}", "mm", "mean, there and back"))
    found.append(Tile("Overlap before", f"{100 * overlap:.0f}", "%", "of the fixed scan's box", "poor" if overlap < 0.2 else ""))
    seconds = total_seconds(result.record.seconds)
    found.append(Tile("Time", f"{seconds:.1f}", "s", f"{result.record.threads} threads, {result.record.device}"))
    return found
