"""The report's image figures, each drawn on a matplotlib Figure of its own (Agg, no pyplot state) and returned as bytes of a PNG or WebP.

All panels of a figure share one scale in pixels per mm, so anatomy keeps its true shape and size from panel to panel. Pictures that the
page lays over each other (fixed, before, after, contours) come from one layout and match to the pixel. A figure has a single axes in
pixels, because axes are what costs time in matplotlib.
"""

import io
from dataclasses import dataclass

import numpy as np
from contourpy import contour_generator
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from regkit.report.scene import Deformation, Scene, Shot

DPI = 100
WIDTH = 1440  # pixels of a full-width figure; the page shows it at up to 1198 CSS pixels
TALLEST = 640  # pixels of the tallest panel
GAP = 8
INK = "#7d8590"  # readable on the page's light and dark backgrounds
EDGE = "#ffb000"  # fixed-edge contours
GRID = "#27c2c7"
FOLD = "#ffe600"


@dataclass(frozen=True)
class Panel:
    """A shot's place in a figure, in pixels from its top left corner."""

    shot: Shot
    left: float
    top: float
    width: float
    height: float

    def at(self, right: float, down: float) -> tuple[float, float]:
        """The place at these shares of the panel's width and height."""
        return self.left + right * self.width, self.top + down * self.height

    def place(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2) column, row of the shot's arrays (centres are whole numbers) in the figure."""
        rows, columns = self.shot.fixed.shape
        return (points + 0.5) * [self.width / columns, self.height / rows] + [self.left, self.top]


@dataclass(frozen=True)
class Sheet:
    """A figure with panels laid out in rows."""

    figure: Figure
    ax: Axes
    panels: list[Panel]


def sheet(rows: list[list[Shot]], transparent: bool = False, letters: bool = True) -> Sheet:
    """Lay shots out in rows, each panel at true aspect, and write the direction letters and a scale bar."""
    widest = max(sum(shot.extent_mm[0] for shot in row) for row in rows)
    gaps = GAP * (max(len(row) for row in rows) - 1)
    scale = min((WIDTH - gaps) / widest, TALLEST / max(shot.extent_mm[1] for row in rows for shot in row))
    heights = [max(shot.extent_mm[1] for shot in row) * scale for row in rows]
    width, height = widest * scale + gaps, sum(heights) + GAP * (len(rows) - 1)
    panels, top = [], 0.0
    for row, row_height in zip(rows, heights):
        left = (width - sum(shot.extent_mm[0] for shot in row) * scale - GAP * (len(row) - 1)) / 2
        for shot in row:
            across, down = (mm * scale for mm in shot.extent_mm)
            panels.append(Panel(shot, left, top + (row_height - down) / 2, across, down))
            left += across + GAP
        top += row_height + GAP
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="none" if transparent else "black")
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    ax.set_axis_off()
    if letters:
        for panel in panels:
            _write_letters(ax, panel)
        if rows[0][0].plane.axis is not None or set(rows[0][0].plane.spacing) != {1.0}:  # photographs carry no mm
            _write_scale_bar(ax, panels[0], scale)
    return Sheet(figure, ax, panels)


def grey(scene: Scene, what: str) -> bytes:
    """Centre slices of "fixed", "before" or "after"."""
    drawn = sheet([scene.centre])
    for panel in drawn.panels:
        _show(drawn.ax, getattr(panel.shot, what), panel)
    return to_webp(drawn.figure)


def contours(scene: Scene) -> bytes:
    """Edges of the fixed scan on a transparent ground, to lay over any of the `grey` figures."""
    drawn = sheet([scene.centre], transparent=True, letters=False)
    for panel in drawn.panels:
        _draw_edges(drawn.ax, panel, scene.levels, EDGE, 1.1)
    return to_png(drawn.figure)


def overlay(scene: Scene, what: str) -> bytes:
    """Mosaic of colour overlays: fixed in magenta, the other in green, grey where they agree."""
    drawn = sheet(scene.mosaic if len(scene.planes) > 1 else [scene.centre])
    for panel in drawn.panels:
        fixed, other = panel.shot.fixed, getattr(panel.shot, what)
        _show(drawn.ax, np.stack([fixed, other, fixed], axis=-1), panel)
    return to_webp(drawn.figure)


def checkerboard(scene: Scene, what: str) -> bytes:
    """Centre slices with squares of the fixed scan and of the other in turn."""
    drawn = sheet([scene.centre])
    side = max(max(shot.extent_mm) for shot in scene.centre) / 11
    for panel in drawn.panels:
        shot = panel.shot
        rows = np.arange(shot.fixed.shape[0])[:, None] * shot.plane.spacing[shot.plane.down]
        columns = np.arange(shot.fixed.shape[1])[None, :] * shot.plane.spacing[shot.plane.across]
        own = (np.floor(rows / side) + np.floor(columns / side)) % 2 == 0
        _show(drawn.ax, np.where(own, shot.fixed, getattr(shot, what)), panel)
    return to_webp(drawn.figure)


def deformation_grid(scene: Scene, deformation: Deformation) -> bytes:
    """A straight grid of the affinely aligned moving scan, carried along with it onto the fixed scan, over the moved scan."""
    drawn = sheet([scene.centre])
    gap_mm = max(max(shot.extent_mm) for shot in scene.centre) / 30
    for panel in drawn.panels:
        shot = panel.shot
        _show(drawn.ax, shot.after * 0.55, panel)
        step = max(1, max(shot.fixed.shape) // 400)
        phi = deformation.sources(shot, step)
        for component, axis in ((0, shot.plane.across), (1, shot.plane.down)):
            gap = gap_mm / shot.plane.spacing[axis]
            first, last = phi[..., component].min(), phi[..., component].max()
            levels = np.arange(np.ceil(first / gap), np.floor(last / gap) + 1) * gap
            _draw_lines(drawn.ax, panel, [line * step for line in _level_lines(phi[..., component], levels)], GRID, 0.9)
    return to_webp(drawn.figure)


def jacobian(scene: Scene, determinant: np.ndarray) -> bytes:
    """Maps of log det (blue: the moving scan is locally smaller than the fixed, red: larger); folded voxels in yellow."""
    drawn = sheet([scene.centre])
    logs = log_determinant(determinant)
    limit = jacobian_limit(logs)
    for panel in drawn.panels:
        shot = panel.shot
        _show(drawn.ax, np.nan_to_num(shot.plane.cut(logs, shot.index)[shot.window]), panel, cmap="RdBu_r", low=-limit, high=limit)
        _draw_edges(drawn.ax, panel, scene.levels, "#00000070", 0.7)
        folded = shot.plane.cut(determinant <= 0, shot.index)[shot.window]
        if folded.any():
            _show(drawn.ax, np.ma.masked_array(np.ones(folded.shape), ~folded), panel, cmap=ListedColormap([FOLD]), smooth=False)
    return to_webp(drawn.figure)


def log_determinant(determinant: np.ndarray) -> np.ndarray:
    """log det, NaN where the transform folds."""
    return np.log(np.where(determinant > 0, determinant, np.nan))


def jacobian_limit(logs: np.ndarray) -> float:
    """Symmetric colour limit: percentile 99.5 of |log det|, at least 0.1 so that noise stays pale."""
    finite = np.abs(logs[np.isfinite(logs)])
    return max(0.1, float(np.percentile(finite[:: max(1, finite.size // 500_000)], 99.5))) if finite.size else 0.1


def to_png(figure: Figure) -> bytes:
    """A figure (flat colours, transparency) as a PNG with a palette."""
    picture = _rendered(figure).quantize(255, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def to_webp(figure: Figure) -> bytes:
    """A figure of grey levels as WebP: a tenth of the size of a PNG at the same look, so that a page of many slices stays easy to send."""
    buffer = io.BytesIO()
    _rendered(figure).convert("RGB").save(buffer, format="WEBP", quality=88, method=2)
    return buffer.getvalue()


def _rendered(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.array(canvas.buffer_rgba()))


def _show(
    ax: Axes, picture: np.ndarray, panel: Panel, cmap: str | Colormap = "gray", low: float = 0.0, high: float = 1.0, smooth: bool = True
) -> None:
    extent = (panel.left, panel.left + panel.width, panel.top + panel.height, panel.top)
    interpolation = "bilinear" if smooth else "nearest"
    ax.imshow(picture, cmap=cmap, vmin=low, vmax=high, interpolation=interpolation, aspect="auto", extent=extent, zorder=0)


def _draw_edges(ax: Axes, panel: Panel, levels: list[float], colour: str, width: float) -> None:
    shortest = 0.12 * min(panel.shot.fixed.shape)  # specks of noise are no edges
    lines = [line for line in _level_lines(panel.shot.edges, levels) if np.linalg.norm(np.diff(line, axis=0), axis=1).sum() > shortest]
    _draw_lines(ax, panel, lines, colour, width)


def _level_lines(picture: np.ndarray, levels: np.ndarray | list[float]) -> list[np.ndarray]:
    """The picture's level lines, each (N, 2) column, row; none in a picture that is one pixel thin."""
    if min(picture.shape) < 2:
        return []
    traced = contour_generator(z=picture)
    return [line for level in levels for line in traced.lines(float(level))]


def _draw_lines(ax: Axes, panel: Panel, lines: list[np.ndarray], colour: str, width: float) -> None:
    ax.add_collection(LineCollection([panel.place(line) for line in lines], colors=colour, linewidths=width, zorder=2), autolim=False)


def _write_letters(ax: Axes, panel: Panel) -> None:
    letters, plane = panel.shot.plane.letters, panel.shot.plane
    if letters is None:
        return
    size = 8 if panel.width < 260 else 11
    places = (
        (0.012, 0.5, "left", "center"),
        (0.988, 0.5, "right", "center"),
        (0.5, 0.012, "center", "top"),
        (0.5, 0.988, "center", "bottom"),
    )
    for letter, (right, down, horizontal, vertical) in zip(letters, places):
        _write(ax, *panel.at(right, down), letter, size, horizontal, vertical, weight="bold")
    _write(ax, *panel.at(0.012, 0.012), f"{plane.name} {panel.shot.index}", size - 1, "left", "top")


def _write_scale_bar(ax: Axes, panel: Panel, scale: float) -> None:
    length = max((mm for mm in (1, 2, 5, 10, 20, 50, 100, 200) if mm <= 0.3 * panel.shot.extent_mm[0]), default=None)
    if length is None:
        return
    right, low = panel.at(0.975, 0.965)
    left = right - length * scale
    ax.plot([left, right], [low, low], color="#ffffff", linewidth=2, solid_capstyle="butt", zorder=5, path_effects=_outline())
    _write(ax, (left + right) / 2, low - 6, f"{length} mm", 8, "center", "bottom")


def _write(ax: Axes, x: float, y: float, text: str, size: float, horizontal: str, vertical: str, weight: str = "normal") -> None:
    ax.text(x, y, text, color="#ffffff", fontsize=size, fontweight=weight, ha=horizontal, va=vertical, zorder=5, path_effects=_outline())


def _outline() -> list[withStroke]:
    return [withStroke(linewidth=2.5, foreground="#000000b0")]
