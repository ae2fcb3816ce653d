"""The report: one self-contained HTML page (pictures inline, no network) that lets a reader judge a registration by eye and by figures."""

import base64
import os
from pathlib import Path
from typing import Any

import numpy as np

from regkit.report import charts, figures, scene, tables


def write_report(
    result: Any,
    path: str | os.PathLike,
    *,
    evaluation: dict[str, Any] | None = None,
    fixed_points: np.ndarray | None = None,
    moving_points: np.ndarray | None = None,
) -> Path:
    """Write the page of a registration result, 2-D or 3-D, and return its path.

    result: regkit.registration.Result.
    evaluation: what `result.evaluate(...)` gave; by default `result.record.metrics["evaluation"]` when there is one.
    fixed_points, moving_points: (N, D) corresponding landmarks in world mm; drawn as errors before and after.
    The page is written beside `path` and moved in place when it is whole.
    """
    from regkit.geometry.write import atomic_path

    page = render(result, evaluation=evaluation, fixed_points=fixed_points, moving_points=moving_points)
    with atomic_path(path) as temporary:
        Path(temporary).write_text(page, encoding="utf-8")
    return Path(path)


def render(
    result: Any,
    *,
    evaluation: dict[str, Any] | None = None,
    fixed_points: np.ndarray | None = None,
    moving_points: np.ndarray | None = None,
) -> str:
    """The page as text; see `write_report`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from regkit.metrics import tre
    from regkit.registration.toml import to_toml

    evaluation = evaluation if evaluation is not None else result.record.metrics.get("evaluation", {})
    view, determinant = scene.build(result), scene.determinant(result)
    images = _pictures(result, view, determinant)
    if fixed_points is not None and moving_points is not None:
        images["landmarks"] = charts.landmark_errors(
            tre(fixed_points, moving_points), tre(result.transform.apply(fixed_points), moving_points)
        )
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    record = result.record
    return environment.get_template("page.html.j2").render(
        title=f"{_source(result, 'moving')} to {_source(result, 'fixed')}",
        subtitle=[
            *([] if record.model is None else [f"model {record.model['name']}"]),
            f"preset {result.config.preset}",
            f"{result.fixed.grid.ndim}-D",
            f"seed {record.seed}",
        ],
        version=record.versions.get("regkit", ""),
        style=_trusted((folder / "page.css").read_text("utf-8")),
        script=_trusted((folder / "page.js").read_text("utf-8")),
        warnings=record.warnings,
        notes=record.notes,
        tiles=tables.tiles(result, view.overlap, evaluation),
        tables={
            "inputs": tables.input_table(result),
            "model": tables.model_tables(record),
            "deformation": tables.deformation_table(record.metrics),
            "evaluation": tables.evaluation_tables(
                {key: value for key, value in evaluation.items() if key not in record.metrics.get("jacobian", {})}
            ),
            "details": tables.detail_tables(record),
        },
        captions=_captions(view),
        images={name: None if data is None else _inline(data) for name, data in images.items()},
        config=to_toml(result.config),
        footer=f"Written by regkit {record.versions.get('regkit', '')}. For research; not for clinical decisions.",
    )


def _pictures(result: Any, view: scene.Scene, determinant: np.ndarray) -> dict[str, bytes | None]:
    logs = figures.log_determinant(determinant)
    images: dict[str, bytes | None] = {f"grey_{what}": figures.grey(view, what) for what in ("fixed", "before", "after")}
    images["contours"] = figures.contours(view)
    for what in ("before", "after"):
        images[f"overlay_{what}"] = figures.overlay(view, what)
        images[f"checkerboard_{what}"] = figures.checkerboard(view, what)
    images["grid"] = figures.deformation_grid(view, scene.Deformation(result, view))
    images["jacobian"] = figures.jacobian(view, determinant)
    images["colour_bar"] = charts.colour_bar(figures.jacobian_limit(logs))
    images["histogram"] = charts.histogram(logs, float((determinant <= 0).mean()))
    images["curves"] = charts.loss_curves(result.record.curves)
    images["landmarks"] = None
    return images


def _captions(view: scene.Scene) -> dict[str, str]:
    shown = "On the fixed scan's grid, at true proportions."
    if len(view.planes) == 3:
        shown = "Slices through the middle of the fixed scan's mask or foreground, on its own grid and at true proportions. "
        shown += "The patient's right is on the left (radiological)."
    if view.oblique > 3:
        shown += f" The scan lies oblique by {view.oblique:.0f} degrees: letters name the nearest directions."
    if view.overlap < 0.01:
        shown += " The scans do not overlap in space before registration, so “before” is empty."
    return {
        "alignment": shown,
        "grid": "A straight grid on the affinely aligned moving scan, carried along with it onto the fixed scan: the part of the transform "
        "beyond its best affine fit. Lines that cross or loop are folds.",
        "jacobian": "Local volume change of the whole transform, log det of its Jacobian in mm. Red: what is here takes more room in the "
        "moving scan; blue: less. Yellow: folded.",
    }


def _source(result: Any, name: str) -> str:
    path = result.record.inputs.get(name, {}).get("path")
    return Path(path).name if path else f"{name} scan"


def _inline(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _trusted(text: str):
    from markupsafe import Markup

    return Markup(text)
