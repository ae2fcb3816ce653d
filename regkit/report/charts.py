"""The report's charts: Jacobian histogram, loss curves, landmark errors. Transparent grounds and mid-grey ink suit light and dark pages."""

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from regkit.report.figures import DPI, INK, to_png

BEFORE, AFTER = "#b0761f", "#2f81d7"


def histogram(logs: np.ndarray, folds: float) -> bytes:
    """Histogram of log det on a logarithmic count axis. `folds` is the share of voxels with det <= 0."""
    figure, (ax,) = _chart(1, 460, 300)
    finite = logs[np.isfinite(logs)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    ax.hist(finite, bins=101, range=(min(low, -0.1), max(high, 0.1)), color=AFTER, log=bool(finite.size))
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_xlabel("log det of the Jacobian (0: volume kept)")
    ax.set_ylabel("voxels")
    if folds > 0:
        ax.text(0.02, 0.96, f"{100 * folds:.3g} % folded, not drawn", transform=ax.transAxes, color=INK, va="top", fontsize=9)
    return to_png(figure)


def loss_curves(curves: dict[str, list[float]]) -> bytes | None:
    """One panel per stage, each on its own axis: the losses of different stages are not comparable. None when no stage has a curve."""
    drawn = {stage: np.asarray(values, dtype=float) for stage, values in curves.items() if len(values) > 1}
    if not drawn:
        return None
    columns = min(len(drawn), 5)
    rows = -(-len(drawn) // columns)
    figure, axes = _chart(len(drawn), 1160 if columns > 2 else 480 * columns, 230 * rows, rows, columns)
    for ax, (stage, values) in zip(axes, drawn.items()):
        ax.plot(np.arange(1, len(values) + 1), values, color=AFTER, linewidth=1.5)
        ax.set_title(stage, fontsize=10, color=INK, loc="left", fontweight="bold")
        ax.set_xlabel("iteration")
    axes[0].set_ylabel("loss")
    return to_png(figure)


def landmark_errors(before: np.ndarray, after: np.ndarray) -> bytes:
    """Share of landmarks within a distance, before and after. Both arrays (N,), mm."""
    figure, (ax,) = _chart(1, 560, 300)
    for errors, colour, name in ((before, BEFORE, "before"), (after, AFTER, "after")):
        ordered = np.sort(errors)
        ax.step(
            np.r_[0, ordered],
            np.r_[0, np.arange(1, len(ordered) + 1) / len(ordered) * 100],
            where="post",
            color=colour,
            linewidth=1.8,
            label=f"{name}: mean {errors.mean():.2f} mm",
        )
    ax.set_xlim(0, max(float(before.max()), float(after.max()), 1e-3) * 1.03)
    ax.set_ylim(0, 102)
    ax.set_xlabel("target registration error, mm")
    ax.set_ylabel("landmarks within, %")
    ax.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")
    return to_png(figure)


def colour_bar(limit: float) -> bytes:
    """The scale of the Jacobian maps."""
    figure = Figure(figsize=(4.6, 0.62), dpi=DPI * 1.25, facecolor="none")
    ax = figure.add_axes((0.04, 0.62, 0.92, 0.3))
    bar = figure.colorbar(ScalarMappable(Normalize(-limit, limit), "RdBu_r"), cax=ax, orientation="horizontal")
    bar.outline.set_visible(False)
    ticks = np.linspace(-limit, limit, 5)
    bar.set_ticks(ticks, labels=[f"{tick:.2f}\n×{np.exp(tick):.2f}" for tick in ticks])
    ax.tick_params(colors=INK, labelsize=7.5, length=2)
    return to_png(figure)


def _chart(count: int, width: int, height: int, rows: int = 1, columns: int = 1):
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI * 1.25, facecolor="none", layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in grid[count:]:
        ax.set_visible(False)
    for ax in grid[:count]:
        ax.set_facecolor("none")
        ax.tick_params(colors=INK, labelsize=8.5)
        ax.xaxis.label.set(color=INK, size=9)
        ax.yaxis.label.set(color=INK, size=9)
        ax.grid(True, color=INK, alpha=0.18, linewidth=0.7)
        ax.set_axisbelow(True)
        for side, spine in ax.spines.items():
            spine.set_color(INK)
            spine.set_visible(side in ("left", "bottom"))
    return figure, grid[:count]
