"""Trains LapIRN (or VoxelMorph) on real scans and prints what it reaches on scans it has not seen: the tables of README.

    python examples/train_lapirn.py hippocampus --data DIR -o runs/hippocampus               labels in the loss (Learn2Reg 2020, task 4)
    python examples/train_lapirn.py hippocampus --data DIR -o runs/unlabelled --no-labels
    python examples/train_lapirn.py brain --data DIR -o runs/brain [--network voxelmorph]    after regkit's affine, at half resolution

DIR holds, each where it is wanted:
    hippocampus/{images,labels}/*.nii.gz              the last 30 cases by name are for validation
    brain-oasis-trt/NN/{t1,labels}.nii.gz             the last 4 are for validation

The run's directory holds the manifest, the configuration (--config replaces its keys), checkpoints, logs and weights; a run that was broken
off goes on with --resume. Afterwards pairs of validation scans, drawn once (--pairs), are registered by the initial alignment alone, by the
trained network and with --compare by the preset that needs no training; all through regkit.register. Dice is the mean over the labels of
the fixed map, by nearest neighbour on its own grid; SDlogJ is Learn2Reg's (log(J + 3), which hides folds) and the strict one; Dice30 is the
30th percentile over pairs. Seconds are wall time of regkit.register, reading included, the median of all pairs. --evaluate skips training.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# As the command line does: before torch is loaded, or its idle threads take the cores from regkit's between two short operations.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from regkit.errors import InputError, RegkitError

Figures = dict[str, float]
SEED = 0


@dataclass(frozen=True)
class Scans:
    """A data set: its files, how many of its cases are for validation, and the preset that registers it without training."""

    images: str
    label: Callable[[Path], Path]
    validation: int
    pairs: int | None
    preset: str
    about: dict[str, str]


SETS = {
    "hippocampus": Scans(
        images="hippocampus/images/*.nii.gz",
        label=lambda image: image.parents[1] / "labels" / image.name,
        validation=30,
        pairs=100,
        preset="generic",
        about={
            "name": "hippocampus",
            "description": "Hippocampus in MR crops of 1 mm, from one person to another",
            "data": "Medical Segmentation Decathlon, task 4 (Simpson et al. 2019, arXiv:1902.09063)",
            "licence": "CC BY-SA 4.0, as the data's",
        },
    ),
    "brain": Scans(
        images="brain-oasis-trt/*/t1.nii.gz",
        label=lambda image: image.with_name("labels.nii.gz"),
        validation=4,
        pairs=None,
        preset="mr-brain",
        about={
            "name": "brain",
            "description": "Skull-stripped T1 brains, from one person to another, at 2 mm",
            "data": "Mindboggle-101 OASIS-TRT (Klein & Tourville 2012, doi:10.3389/fnins.2012.00171)",
            "licence": "CC BY-NC-SA 3.0, as the data's: not to be shipped",
        },
    ),
}


def write_pairs(scans: Scans, data: Path, run: Path) -> Path:
    """The run's manifest."""
    from regkit.data.manifest import Case, Manifest, write_manifest

    images = sorted(data.glob(scans.images))
    if len(images) < scans.validation + 2:
        raise InputError(f"{data / scans.images}: {len(images)} images; {scans.validation} are for validation, and training needs 2 more")
    first = len(images) - scans.validation
    named = [(image.parent.name if image.name == "t1.nii.gz" else image.name.removesuffix(".nii.gz"), image.absolute()) for image in images]
    splits = ["train" if n < first else "validation" for n in range(len(images))]
    cases = [Case(name, image, scans.label(image), split=split) for (name, image), split in zip(named, splits)]
    write_manifest(Manifest(tuple(cases)), run / "pairs.csv")
    return run / "pairs.csv"


def configuration(args: argparse.Namespace) -> Any:
    """What is trained, and how: the paper's network and loss, and what small data sets and a few CPU hours ask for."""
    from regkit.registration.toml import override_by
    from regkit.training.registration import About
    from regkit.training.trainings import training

    config = replace(training(args.network).config(), about=About(**SETS[args.set].about))
    labels = "no labels" if args.no_labels else "labels"
    tables = (HIPPOCAMPUS if args.set == "hippocampus" else BRAIN, NETWORK[args.network, args.set, labels])
    return override_by(config, tables, args.config)


# 170 people are few: without augmentation the network learns their labels by heart (Dice 0.86 on them, 0.79 on others).
HIPPOCAMPUS = """
[data]
validation_pairs = 100
mirror = [0]
[data.augmentation]
probability = 0.5
scale = 0.1
[data.elastic]
probability = 0.7
amplitude = 4.0
sigma = 7.0
[data.intensity]
probability = 0.5
[data.input]
shape = [48, 64, 48]
align = "centres"
intensity = {percentiles = [0.5, 99.5]}
[loop]
precision = "bfloat16"
schedule = "cosine"
learning_rate = 6e-4
clip = 1.0
log_every = 200
validate_every = 2500
"""
# Half resolution; the whole brain in a frame of 160 x 192 x 160 mm.
BRAIN = """
[data.augmentation]
probability = 0.5
[data.input]
spacing_mm = 2.0
shape = [80, 96, 80]
center = "foreground"
align = "affine"
[loop]
precision = "bfloat16"
schedule = "cosine"
learning_rate = 6e-4
clip = 1.0
log_every = 20
validate_every = 500
save_every = 100
"""
# Weights of the loss: with labels, what counts is how much smoother the field may get for how much overlap. The paper's (1, 1) give an
# SDlogJ above 0.06.
NETWORK = {
    ("lapirn", "hippocampus", "labels"): "steps = [3000, 40000, 8000]\nfreeze = 300\nloss = {dice = 5.0, smoothness = 12.0}",
    ("lapirn", "hippocampus", "no labels"): "steps = [2000, 10000, 6000]\nfreeze = 300\nloss = {dice = 0.0, smoothness = 3.0}",
    ("lapirn", "brain", "labels"): "steps = [1000, 600, 400]\nfreeze = 100",
    ("lapirn", "brain", "no labels"): "steps = [1000, 600, 400]\nfreeze = 100\nloss = {dice = 0.0}",
    ("voxelmorph", "hippocampus", "labels"): "steps = 15000\nloss = {dice = 1.0}",
    ("voxelmorph", "hippocampus", "no labels"): "steps = 15000",
    ("voxelmorph", "brain", "labels"): "steps = 600\nloss = {dice = 1.0}",
    ("voxelmorph", "brain", "no labels"): "steps = 600",
}


def validation_pairs(manifest: Path, count: int | None) -> list[tuple[Any, Any]]:
    """Ordered pairs (fixed, moving) of validation cases; `count` of them, the same in every run."""
    from regkit.data.manifest import read_manifest

    cases = read_manifest(manifest).split("validation")
    every = [(a, b) for a in cases for b in cases if a is not b]
    return every if count is None or count >= len(every) else random.Random(SEED).sample(every, count)


def score(fixed: Any, moving: Any, threads: int | None, **how: Any) -> tuple[Figures, Figures]:
    """A pair's figures: by its initial alignment alone, and registered."""
    import regkit
    from regkit.geometry import read_image, resample
    from regkit.metrics import dice

    started = time.perf_counter()
    result = regkit.register(fixed.image, moving.image, threads=threads, **how)
    seconds = time.perf_counter() - started
    labels = read_image(fixed.label), read_image(moving.label)
    affine = result.transform.parts[0]

    def overlap(moved: Any) -> float:
        return float(np.mean(list(dice(labels[0], moved).values())))

    volume = result.record.metrics["jacobian"]
    figures = {
        "dice": overlap(result.warp(labels[1], labels=True)),
        "sdlogj_learn2reg": volume["sdlogj_learn2reg"],
        "sdlogj": volume["sdlogj"],
        "folds_percent": 100 * volume["folds"],
        "seconds": seconds,
    }
    return {"dice": overlap(resample(labels[1], labels[0].grid, affine, labels=True))}, figures


def table(rows: dict[str, list[Figures]]) -> list[str]:
    """A line a method: n, Dice (mean, std over pairs, 30th percentile), SDlogJ, folds, seconds."""
    lines = [f"{'method':<34} {'n':>4} {'Dice':>7} {'std':>7} {'Dice30':>7} {'SDlogJ':>7} {'strict':>7} {'folds %':>8} {'s':>6}"]
    for name, found in rows.items():
        values = {key: np.array([figures[key] for figures in found]) for key in found[0]}
        dice = values["dice"]
        line = f"{name:<34} {len(dice):>4} {dice.mean():>7.4f} {dice.std():>7.4f} {np.percentile(dice, 30):>7.4f}"
        if "seconds" in values:
            means = [values[key].mean() for key in ("sdlogj_learn2reg", "sdlogj", "folds_percent")]
            line += f" {means[0]:>7.4f} {means[1]:>7.4f} {means[2]:>8.4f} {np.median(values['seconds']):>6.2f}"
        lines.append(line)
    return lines


def evaluate(args: argparse.Namespace, manifest: Path) -> dict[str, list[Figures]]:
    """Every method's figures of every pair."""
    scans, rows = SETS[args.set], {}
    pairs = validation_pairs(manifest, args.pairs or scans.pairs)
    methods = {f"{args.network}{', no labels' if args.no_labels else ''}": {"model": str(args.out / "model.safetensors")}}
    if args.compare:
        methods[f"preset {scans.preset}, no training"] = {"preset": scans.preset}
    for name, how in methods.items():
        if "model" in how:
            how["preset"] = scans.preset
        for fixed, moving in pairs:
            before, after = score(fixed, moving, args.threads, **how)
            if "model" in how:
                rows.setdefault("initial alignment", []).append(before)
            rows.setdefault(name, []).append(after)
            if not args.quiet:
                print(f"{name}: {fixed.name} <- {moving.name}, Dice {after['dice']:.3f}, {after['seconds']:.2f} s", flush=True)
    return rows


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=list(SETS), help="which data")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="directory of the data sets")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="RUN", help="directory of the training; made when missing")
    parser.add_argument("--network", choices=["lapirn", "voxelmorph"], default="lapirn")
    parser.add_argument("--no-labels", action="store_true", help="train on the scans alone")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML whose keys replace those of the training, as in regkit train")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in RUN")
    parser.add_argument("--evaluate", action="store_true", help="take the weights that are in RUN")
    parser.add_argument("--compare", action="store_true", help="register the pairs without training too")
    parser.add_argument("--pairs", type=int, metavar="N", help="validation pairs (default: hippocampus 100, brain all)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes every pair's figures")
    parser.add_argument("--quiet", action="store_true", help="the table only")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> dict[str, list[Figures]]:
    """Trains and evaluates; the figures of every pair."""
    import torch

    from regkit.commands.console import progress
    from regkit.training.start import start

    if args.threads:
        torch.set_num_threads(args.threads)
    manifest = args.out / "pairs.csv"
    if not args.evaluate:
        config = configuration(args)
        write_pairs(SETS[args.set], args.data, args.out)
        start(args.network, config, manifest, args.out, resume=args.resume, quiet=args.quiet, progress=lambda: progress(args.quiet))
    return evaluate(args, manifest)


def main(argv: list[str] | None = None) -> int:
    """Prints the table; 0 when done, otherwise regkit's exit code."""
    args = parse(argv)
    try:
        rows = run(args)
    except RegkitError as error:
        print(f"train_lapirn: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(["", *table(rows)]))
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
