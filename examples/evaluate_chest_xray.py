"""The table of He et al. 2022 for trained networks: all ordered pairs of a list of chest X-rays.

    python examples/evaluate_chest_xray.py --data DIR/montgomery --list test.txt runs/mont/registration/last.safetensors [more weights]

DIR/montgomery holds 256/images/*.png and 256/labels/*.png (or images/ and labels/). The list names one image a line; by default all.
A pair is seen by the network in its own frame; its field is brought to the image's grid, where the moving labels are warped (each label
linearly, the largest wins) and measured:

    DSC        mean over the labels
    HD, ASSD   Hausdorff distance and average symmetric surface distance (MedPy's), mean over the labels; in pixels, and in mm where the
               size of a pixel is known: --mm, by default what AC-RegNet's authors give for montgomery (1.672) and jsrt (1.400)
    JAC        pixels with a Jacobian determinant of 0 or less (central differences)
    s a pair   the masks of an image, which are the same in all its pairs, count in the first one only

Means over the pairs, standard deviations in brackets. Weights of a segmentation-unet are scored by Dice alone. --preset xray adds a
registration without training, on --preset-pairs of the pairs. --remove-folds smooths a field where it folds, as regkit register does with
model.remove_folds. --picture FILE.png shows the last weights' worst, median and best pair.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded: idle threads leave the cores to regkit's

import numpy as np

from regkit.errors import InputError, RegkitError, UsageError

Figures = dict[str, float]
MM = {"montgomery": 1.672, "jsrt": 1.400}
COLUMNS = ("dsc", "hd_mm", "assd_mm", "hd_px", "assd_px", "jac", "seconds")
INSIDE = "256"  # the data set's folder with images of full size


@dataclass(frozen=True)
class Scan:
    """An X-ray, read once."""

    name: str
    image: Any
    labels: Any
    values: tuple[int, ...]


def folder(data: Path) -> Path:
    """The folder that has images/ and labels/. Raises InputError."""
    for home in (data / INSIDE, data):
        if (home / "images").is_dir() and (home / "labels").is_dir():
            return home
    raise InputError(f"{data}: has neither {INSIDE}/images and {INSIDE}/labels nor images and labels; give the directory of a data set")


def listed(home: Path, names: Path | None) -> list[Path]:
    """The images of a list file (one a line, with or without folder and .png), or all. Raises InputError for one that is not there."""
    known = {path.stem: path for path in sorted((home / "images").glob("*.png"))}
    if names is None:
        return list(known.values())
    try:
        wanted = [Path(line.strip()).stem for line in names.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"{names}: {error.strerror}; give a file with the name of one image a line") from None
    missing = [name for name in wanted if name not in known]
    if missing:
        raise InputError(f"{names}: {len(missing)} of {len(wanted)} images are not in {home / 'images'} (the first is {missing[0]})")
    return [known[name] for name in dict.fromkeys(wanted)]


def read(path: Path, wanted: tuple[int, ...] | None) -> Scan:
    """An image with its label map, in which labels that are not wanted are background."""
    from regkit.geometry import Image, read_image

    labels = read_image(path.parents[1] / "labels" / path.name)
    values = tuple(int(v) for v in np.unique(labels.data) if v > 0) if wanted is None else wanted
    kept = Image(np.where(np.isin(labels.data, values), labels.data, 0), labels.grid, labels.name)
    return Scan(path.stem, read_image(path), kept, values)


def moved_labels(moving: Scan, u: Any) -> np.ndarray:
    """The moving label map, each label warped linearly and the largest taken."""
    import torch

    from regkit import ops

    return ops.warp_labels(torch.from_numpy(moving.labels.data)[None, None], u, mode="majority", padding="border")[0, 0].numpy()


def measure(fixed: Scan, moved: np.ndarray, u: Any, mm: float | None) -> Figures:
    """A pair's figures."""
    from regkit.geometry import Image
    from regkit.metrics import dice, jacobian_summary, surface_distances

    result = Image(moved, fixed.labels.grid)
    distances = surface_distances(fixed.labels, result, spacing=1.0)
    found = {"dsc": float(np.mean(list(dice(fixed.labels, result).values())))}
    for name, key in (("hd", "hd"), ("assd", "assd_medpy")):
        found[f"{name}_px"] = float(np.mean([values[key] for values in distances.values()]))
        if mm is not None:
            found[f"{name}_mm"] = found[f"{name}_px"] * mm
    return found | {"jac": float(round(jacobian_summary(u)["folds"] * u[0, 0].numel()))}


class Network:
    """Trained weights, and every scan as they see it, prepared once. unfold: smooth fields where they fold, as `regkit register` does with
    model.remove_folds."""

    def __init__(self, weights: Path, scans: list[Scan], unfold: bool = False):
        from regkit.models.input import prepare
        from regkit.models.predict import Predictor
        from regkit.registration.config import ModelStage

        self.predictor = Predictor.load(ModelStage(source=str(weights)))
        self.prepared = {scan.name: prepare(scan.image, None, self.predictor.input) for scan in scans}
        self.name, self.unfold = self.predictor.name, unfold
        network = self.predictor.network
        if hasattr(network, "clean"):  # the mask of an image is the same in all its pairs
            network.clean = _remembered(network.clean)

    def __call__(self, fixed: Scan, moving: Scan) -> Any:
        """The displacement (1, 2, *image) of a pair, in pixels of the image."""
        import torch

        from regkit.data.validation import to_scan_grid
        from regkit.models.input import frame
        from regkit.models.predict import View
        from regkit.registration.folds import remove_folds

        prepared = [self.prepared[scan.name] for scan in (fixed, moving)]
        view = View(*prepared, frame(prepared[0], self.predictor.input, self.predictor.network.multiple))
        affine = self.predictor.align(view)
        with torch.no_grad():
            motion = self.predictor.predict(view, affine)
        u = to_scan_grid(motion.displacement, view.frame, fixed.image.grid, moving.image.grid, affine)
        return remove_folds(u)[0] if self.unfold else u


def _remembered(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What a function of a tensor gave, for every tensor that it has been given."""
    known: dict[bytes, Any] = {}

    def found(image: Any) -> Any:
        key = hashlib.sha256(image.numpy().tobytes()).digest()
        if key not in known:
            known[key] = work(image)
        return known[key]

    return found


class Preset:
    """regkit.register without a network."""

    def __init__(self, preset: str):
        self.name = self.preset = preset

    def __call__(self, fixed: Scan, moving: Scan) -> Any:
        import regkit
        from regkit.geometry import total_displacement

        result = regkit.register(fixed.image, moving.image, preset=self.preset)
        return total_displacement(result.transform, fixed.image.grid, moving.image.grid)


def identity(fixed: Scan, moving: Scan) -> Any:
    """No registration at all."""
    import torch

    return torch.zeros(1, fixed.image.ndim, *fixed.image.grid.shape)


def evaluate(method: Any, scans: list[Scan], mm: float | None, pairs: int | None = None, told: Any = None) -> list[Figures]:
    """Every ordered pair's figures, or those of `pairs` of them, drawn evenly."""
    every = [(fixed, moving) for fixed in scans for moving in scans if fixed is not moving]
    if pairs is not None and pairs < len(every):
        every = [every[int(n)] for n in np.linspace(0, len(every) - 1, pairs)]
    rows = []
    for fixed, moving in every:
        started = time.perf_counter()
        u = method(fixed, moving)
        seconds = time.perf_counter() - started
        rows.append(measure(fixed, moved_labels(moving, u), u, mm) | {"seconds": seconds, "fixed": fixed.name, "moving": moving.name})
        if told is not None and len(rows) % 500 == 0:
            told(f"{len(rows)} of {len(every)} pairs")
    return rows


def picture(method: Any, scans: list[Scan], rows: list[Figures], path: Path) -> None:
    """The worst, the median and the best pair by DSC: fixed, moving and moved image with their outlines, and the field as a grid."""
    import torch
    from matplotlib.figure import Figure

    from regkit import ops
    from regkit.geometry import atomic_path

    by_name, ordered = {scan.name: scan for scan in scans}, sorted(rows, key=lambda row: row["dsc"])
    chosen = [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
    figure = Figure(figsize=(12, 9.4), layout="constrained")
    for axes, row in zip(figure.subplots(3, 4), chosen):
        fixed, moving = by_name[row["fixed"]], by_name[row["moving"]]
        u = method(fixed, moving)
        image = torch.from_numpy(moving.image.data.astype(np.float32))[None, None]
        moved = ops.warp(image, u, padding="border")[0, 0].numpy()
        labels = {"fixed": fixed.labels.data, "moving": moving.labels.data, "moved": moved_labels(moving, u)}
        for ax, (name, grey) in zip(axes, {"fixed": fixed.image.data, "moving": moving.image.data, "moved": moved}.items()):
            ax.imshow(grey.T, cmap="gray", vmin=0, vmax=255)
            ax.contour((labels["fixed"] > 0).T, levels=[0.5], colors="lime", linewidths=1)
            if name != "fixed":
                ax.contour((labels[name] > 0).T, levels=[0.5], colors="red", linewidths=1)
            ax.set_title({"fixed": f"fixed {fixed.name}", "moving": f"moving {moving.name}", "moved": f"moved, DSC {row['dsc']:.3f}"}[name])
        place = np.stack(np.meshgrid(*(np.arange(n) for n in u.shape[2:]), indexing="ij")) + u[0].numpy()
        for lines in (place[:, ::8], place[:, :, ::8].swapaxes(1, 2)):
            axes[3].plot(lines[0].T, lines[1].T, color="black", linewidth=0.5)
        axes[3].set(title=f"field, {row['jac']:.0f} pixels folded", aspect="equal", xlim=(0, u.shape[2]), ylim=(u.shape[3], 0))
        for ax in axes:
            ax.set_axis_off()
    with atomic_path(path) as draft:
        figure.savefig(draft, dpi=90, format="png")


def segmentation(weights: Path, scans: list[Scan]) -> list[Figures]:
    """Dice of a segmentation-unet's masks, on the images' own grid."""
    import torch

    from regkit.models.input import frame, prepare, see
    from regkit.models.weights import load_model
    from regkit.training.segmentation import segmentation_dice

    network, card = load_model(str(weights))
    rows = []
    for scan in scans:
        prepared = prepare(scan.image, None, card.input)
        grid = frame(prepared, card.input, network.multiple)
        with torch.no_grad():
            probabilities = network(see(prepared, grid)).softmax(1)
        rows.append({"dsc": segmentation_dice(probabilities, grid, scan.labels, scan.values), "fixed": scan.name})
    return rows


def line(name: str, rows: list[Figures]) -> str:
    """A row of the table: mean (std) of every figure."""
    cells = []
    for key in COLUMNS:
        values = np.array([row.get(key, np.nan) for row in rows])
        digits = {"dsc": 4, "jac": 1}.get(key, 3)
        known = np.isfinite(values)
        cells.append(f"{values[known].mean():.{digits}f} ({values[known].std():.{digits}f})" if known.any() else "-")
    lost = sum(not np.isfinite(row.get("hd_px", 0.0)) for row in rows)
    return (
        f"{name:<34} {len(rows):>6} "
        + " ".join(f"{cell:>18}" for cell in cells)
        + (f"   {lost} pairs without a surface left" if lost else "")
    )


HEADER = f"{'method':<34} {'n':>6} " + " ".join(
    f"{name:>18}" for name in ("DSC", "HD mm", "ASSD mm", "HD px", "ASSD px", "JAC", "s a pair")
)


def pixel(data: Path, given: float | None) -> float | None:
    """mm a pixel: as given, or the known data set's."""
    if given is not None:
        if given <= 0:
            raise UsageError(f"--mm must be above 0, but is {given}")
        return given
    return next((MM[part.lower()] for part in reversed(data.absolute().parts) if part.lower() in MM), None)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="*", help="weights that regkit train wrote")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="directory of a data set")
    parser.add_argument("--list", type=Path, metavar="FILE", help="names of the images, one a line (default: all)")
    parser.add_argument("--labels", type=int, nargs="+", metavar="N", help="labels that count (default: all above 0)")
    parser.add_argument("--mm", type=float, metavar="MM", help="size of a pixel")
    parser.add_argument("--pairs", type=int, metavar="N", help="of all ordered pairs only so many")
    parser.add_argument("--preset", metavar="NAME", help="register without training, too")
    parser.add_argument("--preset-pairs", type=int, default=100, metavar="N")
    parser.add_argument("--remove-folds", action="store_true", help="smooth fields where they fold")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="writes a picture (PNG) of three pairs")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes every pair's figures")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> dict[str, list[Figures]]:
    """All methods' figures."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    wanted = None if args.labels is None else tuple(args.labels)
    scans = [read(path, wanted) for path in listed(folder(args.data), args.list)]
    if len(scans) < 2:
        raise InputError(f"{args.list or args.data}: {len(scans)} images; a pair needs two")
    mm = pixel(args.data, args.mm)
    told = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    rows, shown = {"no registration": evaluate(identity, scans, mm, args.pairs)}, None
    for weights in args.weights:
        from regkit.models.weights import load_card

        name = str(weights.parent.name or weights)
        name = str(weights) if name in rows else name
        if load_card(str(weights)).network == "segmentation-unet":
            rows[name] = segmentation(weights, scans)
        else:
            shown = name, Network(weights, scans, args.remove_folds)
            rows[name] = evaluate(shown[1], scans, mm, args.pairs, told)
    if args.picture is not None:
        if shown is None:
            raise UsageError("--picture needs weights of a network that registers")
        picture(shown[1], scans, rows[shown[0]], args.picture)
    if args.preset:
        rows[f"preset {args.preset}"] = evaluate(Preset(args.preset), scans, mm, args.preset_pairs, told)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Prints the table; 0 when done, otherwise regkit's exit code."""
    args = parse(argv)
    try:
        rows = run(args)
    except RegkitError as error:
        print(f"evaluate_chest_xray: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join([HEADER, *(line(name, found) for name, found in rows.items())]))
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
