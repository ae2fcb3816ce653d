"""Prints what regkit's presets reach on real scans with labels or landmarks, and on the made thorax: the figures of README's results table.

    python examples/real_scans.py --data DIR                   every data set that DIR holds, and the phantom
    python examples/real_scans.py brain lung --data DIR --pairs 3-7 --config mine.toml --json brain.json

DIR holds, each where it is wanted:
    lung-ct/{fixed,moving}.mha, {fixed,moving}_mask.mha, {fixed,moving}_landmarks.txt (elastix: "point", count, mm)
    brain-oasis-trt/NN/{t1,labels}.nii.gz
    hippocampus/{images,labels}/*.nii.gz              the last 40 cases by name are drawn from
    chest-xray/{montgomery,shenzhen}/256/{images,labels}/*.png

Dice is the mean over all labels of the fixed map, by nearest neighbour on the fixed grid; TRE is in mm at the landmarks; folds are the
share of the dense field's voxels whose Jacobian determinant is not positive. Seconds are the wall time of regkit.register: reading the
scans is included (the phantom is made before), writing and the report are not. The first pair's include what is loaded on first use (and on
a GPU compiled), which the median of many pairs leaves out, and --repeat 2, by which the second of two runs is reported; the load
average beside them says how busy the machine was. Peak memory is the process's so far: of one data set when it is run alone. --json has the
seconds of every stage too.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# As the command line does: before torch is loaded, or its idle threads take the cores from regkit's between two short operations.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from regkit.errors import InputError, RegkitError, UsageError

HIPPOCAMPUS_CASES = 40
SEED = 0
CORTICAL = 1000  # Mindboggle's cortical labels begin here

Figures = dict[str, float]
Measure = Callable[[Any], Figures]  # of a regkit.Result


@dataclass(frozen=True)
class Pair:
    """Two scans, and what to measure once they are registered."""

    group: str
    name: str
    scans: dict[str, Any]
    """Arguments of regkit.register."""
    measure: Measure


def overlap(fixed: Path, moving: Path, cortical: int | None = None) -> Measure:
    """Mean Dice over the labels of the fixed map; and over those from `cortical` on."""
    from regkit.geometry import read_image
    from regkit.metrics import dice

    def measure(result: Any) -> Figures:
        scores = dice(read_image(fixed), result.warp(moving, labels=True))
        figures = {"dice": float(np.mean(list(scores.values())))}
        if cortical is not None:
            figures["dice_cortical"] = float(np.mean([score for label, score in scores.items() if label >= cortical]))
        return figures

    return measure


def landmarks(fixed: Any, moving: Any) -> Measure:
    """Mean, median and largest distance of the mapped fixed landmarks from the moving ones."""
    from regkit.metrics import tre, tre_summary

    def measure(result: Any) -> Figures:
        found = tre_summary(tre(result.transform.apply(fixed.coordinates), moving))
        return {f"tre_{name}": found[name] for name in ("mean", "median", "max")}

    return measure


def folder(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"no such folder: {path}; --data names the directory that holds the data sets (see --help)")
    return path


def drawn(names: list[str], count: int, where: Path) -> Iterator[tuple[str, str]]:
    """Random (fixed, moving) pairs, the same in every run."""
    if len(names) < 2:
        raise InputError(f"{where}: {len(names)} images, of which no pair can be drawn; give at least 2")
    generator = random.Random(SEED)
    for _ in range(count):
        fixed, moving = generator.sample(names, 2)
        yield fixed, moving


def lung(args: argparse.Namespace) -> Iterator[Pair]:
    from regkit.geometry import read_points

    at = folder(args.data / "lung-ct")
    scans = {name: at / f"{name}.mha" for name in ("fixed", "moving", "fixed_mask", "moving_mask")}
    points = [read_points(at / f"{name}_landmarks.txt") for name in ("fixed", "moving")]
    yield Pair("lung", "fixed-moving", scans, landmarks(*points))


def brain(args: argparse.Namespace) -> Iterator[Pair]:
    at = folder(args.data / "brain-oasis-trt")
    for name in args.pairs.split(","):
        try:
            fixed, moving = (folder(at / f"{int(number):02d}") for number in name.split("-"))
        except ValueError:
            raise UsageError(f"--pairs {args.pairs}: give FIXED-MOVING numbers, as 11-12,12-13") from None
        scans = {"fixed": fixed / "t1.nii.gz", "moving": moving / "t1.nii.gz"}
        yield Pair("brain", name, scans, overlap(fixed / "labels.nii.gz", moving / "labels.nii.gz", CORTICAL))


def hippocampus(args: argparse.Namespace) -> Iterator[Pair]:
    at = folder(args.data / "hippocampus")
    names = sorted(path.name for path in (at / "images").glob("*.nii.gz"))[-HIPPOCAMPUS_CASES:]
    yield from _labelled("hippocampus", at, names, args.n or 20)


def xray(args: argparse.Namespace) -> Iterator[Pair]:
    for source in ("montgomery", "shenzhen"):
        at = folder(args.data / "chest-xray" / source / "256")
        yield from _labelled(source, at, sorted(path.name for path in (at / "images").glob("*.png")), args.n or 30)


def _labelled(group: str, at: Path, names: list[str], count: int) -> Iterator[Pair]:
    for fixed, moving in drawn(names, count, at):
        name = "-".join(file.split(".")[0] for file in (fixed, moving))
        scans = {"fixed": at / "images" / fixed, "moving": at / "images" / moving}
        yield Pair(group, name, scans, overlap(at / "labels" / fixed, at / "labels" / moving))


def phantom(args: argparse.Namespace) -> Iterator[Pair]:
    from regkit.data import phantom

    made = phantom(args.shape, seed=SEED)
    scans = {"fixed": made.fixed, "moving": made.moving, "fixed_mask": made.fixed_mask, "moving_mask": made.moving_mask}
    yield Pair("phantom", "x".join(map(str, args.shape)), scans, landmarks(made.fixed_points, made.moving_points))


Pairs = Callable[[argparse.Namespace], Iterator[Pair]]
DATA_SETS: dict[str, tuple[str, str, Pairs]] = {  # preset, folder, pairs; the one that needs most memory first, so that its peak is its own
    "brain": ("mr-brain", "brain-oasis-trt", brain),
    "lung": ("ct-lung", "lung-ct", lung),
    "hippocampus": ("generic", "hippocampus", hippocampus),
    "xray": ("xray", "chest-xray", xray),
    "phantom": ("ct-lung", "", phantom),
}


def configure(preset: str, args: argparse.Namespace) -> Any:
    """The preset of --preset, else of the --config file, else the data set's own; with the file's fields in place of its own."""
    from regkit.commands.config import build
    from regkit.registration.toml import override, read_toml

    values = {} if args.config is None else read_toml(args.config)
    named = values.pop("preset", None)
    return override(build(args.preset or named or preset, None), values, str(args.config))


def register(pair: Pair, config: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The pair's figures, the seconds of every stage, and the device."""
    import regkit

    for _ in range(args.repeat):
        started = time.perf_counter()
        result = regkit.register(**pair.scans, config=config, threads=args.threads, device=args.device)
        seconds = time.perf_counter() - started
    record, jacobian = result.record, result.record.metrics["jacobian"]
    figures = {"folds_percent": 100 * jacobian["folds"], "sdlogj": jacobian["sdlogj"], "seconds": seconds}
    memory = {"peak_mb": record.peak_memory_mb}
    if record.peak_gpu_memory_mb is not None:
        memory["peak_gpu_mb"] = record.peak_gpu_memory_mb
    measured = {**pair.measure(result), **figures, "load": os.getloadavg()[0], **memory}
    return {"figures": measured, "stages": record.seconds, "device": record.device}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """n, mean, standard deviation (population), median, least and largest of every figure of every group of pairs."""
    statistics = {"mean": np.mean, "std": np.std, "median": np.median, "min": np.min, "max": np.max}
    lines = [f"{'data':<12} {'preset':<11} {'figure':<14} {'n':>3}" + "".join(f" {name:>9}" for name in statistics)]
    for group in dict.fromkeys(row["group"] for row in rows):
        members = [row for row in rows if row["group"] == group]
        for figure in members[0]["figures"]:
            values = [row["figures"][figure] for row in members]
            title = f"{group:<12} {members[0]['preset']:<11} {figure:<14} {len(values):>3}"
            lines.append(title + "".join(f" {statistic(values):>9.{_digits(figure)}f}" for statistic in statistics.values()))
    return lines


def _digits(figure: str) -> int:
    return {"seconds": 2, "load": 1, "peak_mb": 0, "peak_gpu_mb": 0, "folds_percent": 4}.get(figure, 3)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["all"], metavar="SET", help=f"of {', '.join(DATA_SETS)} (default: all that DIR holds)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="directory of the data sets; the phantom needs none")
    parser.add_argument("--pairs", default="11-12,12-13,13-14", metavar="F-M,...", help="brains, fixed-moving (default: %(default)s)")
    parser.add_argument("--n", type=int, metavar="N", help="random pairs a set (default: hippocampus 20, X-ray 30)")
    parser.add_argument("--shape", type=int, nargs=3, default=(192, 160, 160), metavar=("I", "J", "K"), help="voxels of the phantom")
    parser.add_argument("--device", default="cpu", metavar="auto|cpu|cuda", help="where (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="register every pair N times, and report the last")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (default: %(default)s)")
    parser.add_argument("--preset", metavar="P", help="in place of each data set's own")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML whose keys replace fields of the preset, as in regkit register")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes every pair's figures, and the whole configurations")
    parser.add_argument("--quiet", action="store_true", help="no line per pair")
    args = parser.parse_args(argv)
    unknown = [name for name in args.sets if name not in (*DATA_SETS, "all")]
    if unknown:
        parser.error(f"unknown set {unknown[0]}; there are {', '.join(DATA_SETS)}, all")
    if args.repeat < 1:
        parser.error(f"--repeat must be at least 1, but is {args.repeat}")
    if args.data is None and args.sets != ["phantom"]:
        parser.error("--data DIR is needed, the directory of the data sets (only the phantom needs none)")
    return args


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Registers every pair asked for; what --json writes."""
    import regkit

    print(f"regkit {regkit.__version__}, {args.threads} threads of {os.cpu_count()} processors", flush=True)
    rows, configs = [], {}
    for name in [name for name in DATA_SETS if (args.data / DATA_SETS[name][1]).is_dir()] if "all" in args.sets else args.sets:
        preset, _, pairs = DATA_SETS[name]
        config = configure(preset, args)
        configs[name] = asdict(config)
        for pair in pairs(args):
            found = register(pair, config, args)
            figures = found["figures"]
            rows.append({"group": pair.group, "pair": pair.name, "preset": config.preset, **found})
            if not args.quiet:
                shown = "  ".join(f"{key} {value:.{_digits(key)}f}" for key, value in figures.items())
                print(f"{pair.group} {pair.name}  {shown}", flush=True)
    return {"regkit": regkit.__version__, "threads": args.threads, "processors": os.cpu_count(), "configs": configs, "pairs": rows}


def main(argv: list[str] | None = None) -> int:
    """Prints the figures; 0 when done, otherwise regkit's exit code."""
    args = parse(argv)
    try:
        found = run(args)
    except RegkitError as error:
        print(f"real_scans: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(["", *table(found["pairs"])]))
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
