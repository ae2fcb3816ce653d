"""Trains the system of He et al. 2022 (attention-guided fusion of multi-scale fields) on chest X-rays and prints its row of their table.

    python examples/train_chest_xray.py --data DIR/montgomery --out runs/mont                     the three stages, then the table
    python examples/train_chest_xray.py --data DIR/montgomery --out runs/mont --stages acregnet   a baseline (stages before it as needed)
    python examples/train_chest_xray.py --data DIR/montgomery --out runs/mont --stages ablations
    python examples/train_chest_xray.py --data DIR/montgomery DIR/shenzhen --out runs/both --stages best          one network for both sets

DIR/montgomery holds 256/images/*.png and 256/labels/*.png. Several directories are learned from together and tested each by itself.
Training and test images are named by --train-list and --test-list, one a line; without them a fifth of the images is drawn (always the
same) and kept for the test. Networks see 64 x 64 pixels; fields are brought to the images' grid and measured there, on all ordered pairs
of the test images (see evaluate_chest_xray.py).

Stages, each a directory of --out with configuration, checkpoints, log and weights; what is done is not done again, what was broken off
goes on. Nothing is chosen by the test images: the weights of the last step count (last.safetensors).

    attention      the segmentation network: cross-entropy + 1.75 contour
    autoencoder    of the label maps: cross-entropy + 2.0 contour
    registration   -(NCC + SSIM) + CE + 0.1 code + squared differences of the field
    acregnet       AC-RegNet: -NCC + CE + 0.1 code + 0.81 TV
    voxelmorph     VoxelMorph in 2-D, with labels
    ablations      no attention masks, no SSIM, no contour terms, scales 1 to 3, the fields added without weights
    best           beyond the paper: soft masks, the moving image scaled and shifted by the masks beforehand, velocity fields, and when it
                   registers, refinement on the pair's masks; its fields are smoothed where they fold

The paper does not say at what size masks are found, nor of augmentation. Here masks (and losses) are of 128 x 128 pixels, and their network
learns from images that are turned, scaled and bent, both of which help. The registration does not: it would need many times the steps.
It names 3.5 times a total variation; absolute differences of that weight hold the field back, and of half of it fold it more than the
mean of their squares does (Montgomery, 1200 steps: Dice 0.949 and 430 pixels folded, or 0.946 and 14 by 3.5 times the squares).

--config FILE replaces keys of the registration's (or a baseline's) configuration, as in regkit train.
"""

import argparse
import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded: idle threads leave the cores to regkit's

from evaluate_chest_xray import HEADER, Network, evaluate, folder, identity, line, listed, pixel, read, segmentation

from regkit.errors import InputError, RegkitError, UsageError

SEED = 0
LAST = "last.safetensors"  # of a training: test images, which log.jsonl has scores of, must not choose the weights
SHARE = 0.2  # of the images that are kept, without lists
ABOUT = """
[about]
name = "{name}"
description = "{description}"
data = "{data}"
licence = "{licence}"
"""
DATA = """
[data]
pairs = "random"
validation_pairs = 60
augmentation = {probability = 0.0}
[data.input]
shape = [64, 64]
shrink = 4.0
intensity = {window = [0.0, 255.0]}
"""
LOOP = """
[loop]
precision = "auto"
learning_rate = 1e-3
schedule = "cosine"
log_every = 100
validate_every = 1000
save_every = 1000
"""
# A hundred people are few for a segmentation: their images are turned, bent and changed in brightness, nearly always.
AUGMENTED = """
[data.augmentation]
probability = 0.95
rotation = {rotation}
scale = 0.15
translation = 0.07
[data.elastic]
probability = 0.7
amplitude = {amplitude}
sigma = {sigma}
"""
SHADED = """
[data.intensity]
probability = 0.9
gamma = 0.5
noise = 0.05
"""
SMALL = AUGMENTED.format(rotation=15.0, amplitude=3.0, sigma=6.0)  # of 64 x 64 pixels
LARGE = AUGMENTED.format(rotation=15.0, amplitude=6.0, sigma=12.0)  # of 128 x 128
FINE = """
[data.input]
shape = [128, 128]
shrink = 2.0
"""
SQUARED = """
loss.shape.total_variation = 0.0
loss.shape.smoothness = {smoothness}
"""
BEYOND = """
network.mask = "soft"
network.align = "moments"
network.diffeomorphic = true
network.refinement = {iterations = 20, step = 0.2, smoothness = 0.1}
loss.shape.code = 0.0
"""


@dataclass(frozen=True)
class Stage:
    """A training: the network, its configuration beyond DATA and LOOP, and the stages whose weights it takes."""

    kind: str
    config: str = ""
    steps: int = 5000
    batch: int = 8
    attention: str | None = None
    autoencoder: str | None = None

    @property
    def before(self) -> list[str]:
        return [stage for stage in (self.attention, self.autoencoder) if stage is not None]


def _registration(
    config: str = "",
    attention: str | None = "attention",
    autoencoder: str | None = "autoencoder",
    steps: int = 5000,
    smoothness: float = 1.0,
) -> Stage:
    """Masks and losses of 128 x 128 pixels around a registration of 64 x 64."""
    config = "network.shrink = 2\n" + SQUARED.format(smoothness=smoothness) + config + FINE
    return Stage("attention-fusion", config, steps, attention=attention, autoencoder=autoencoder)


WITHOUT_CONTOUR = "loss.contour = 0.0\n"
STAGES = {
    "attention": Stage("segmentation-unet", FINE + LARGE + SHADED, steps=2500, batch=4),
    "autoencoder": Stage("label-autoencoder", SMALL, steps=1500),
    "registration": _registration(),
    "acregnet": Stage("ac-regnet", "loop.learning_rate = 3e-3\n", autoencoder="autoencoder"),
    "voxelmorph": Stage("voxelmorph", "network.dims = 2\nloss.dice = 1.0\n"),
    "attention-no-contour": Stage("segmentation-unet", WITHOUT_CONTOUR + FINE + LARGE + SHADED, steps=2500, batch=4),
    "autoencoder-no-contour": Stage("label-autoencoder", WITHOUT_CONTOUR + SMALL, steps=1500),
    "no-attention": _registration('network.mask = "none"\n', attention=None),
    "no-ssim": _registration("loss.ssim = 0.0\n"),
    "no-contour": _registration(attention="attention-no-contour", autoencoder="autoencoder-no-contour"),
    "scales-1": _registration("network.scales = 1\n"),
    "scales-2": _registration("network.scales = 2\n"),
    "scales-3": _registration("network.scales = 3\n"),
    "no-field-attention": _registration("network.attention = false\n"),
    "best": _registration(BEYOND, autoencoder=None, steps=1200, smoothness=0.5),
}
MASKS = ("segmentation-unet", "label-autoencoder")  # networks of one image, which register nothing
DEFAULT = ("attention", "autoencoder", "registration")
ABLATIONS = ("no-attention", "no-ssim", "no-contour", "scales-1", "scales-2", "scales-3", "no-field-attention")


def split(images: Sequence[Path], train: Sequence[Path] | None, test: Sequence[Path] | None) -> tuple[list[Path], list[Path]]:
    """Training and test images. Raises InputError when they overlap or are too few."""
    if test is None:
        left = [image for image in images if train is None or image not in train]
        test = left if train is not None else sorted(random.Random(SEED).sample(left, round(SHARE * len(left))))
    if train is None:
        train = [image for image in images if image not in test]
    both = set(train) & set(test)
    if both:
        raise InputError(f"{len(both)} images are in both lists, for training and for the test ({sorted(both)[0].name} is one)")
    if min(len(train), len(test)) < 2:
        raise InputError(f"{len(train)} images to train on and {len(test)} to test on; a pair needs two of each")
    return list(train), list(test)


@dataclass(frozen=True)
class DataSet:
    """A directory of X-rays, its images shared out."""

    name: str
    train: list[Path]
    test: list[Path]
    mm: float | None


def data_sets(args: argparse.Namespace) -> list[DataSet]:
    """What --data and the lists name. Raises InputError for images that are missing, UsageError for lists with several directories."""
    names = (args.train_list, args.test_list)
    if len(args.data) > 1 and any(names):
        raise UsageError(f"--train-list and --test-list are for one directory, and --data names {len(args.data)}")
    homes = [folder(data) for data in args.data]
    images = [listed(home, None) for home in homes]
    twice = sorted(name for name, times in Counter(image.stem for part in images for image in part).items() if times > 1)
    if twice:
        raise UsageError(f"--data names {len(twice)} images twice ({twice[0]} is one); name each directory once")
    sets = []
    for data, home, part in zip(args.data, homes, images):
        train, test = split(part, *(None if name is None else listed(home, name) for name in names))
        sets.append(DataSet(data.name, train, test, pixel(data, args.mm)))
    return sets


def write_pairs(sets: Sequence[DataSet], args: argparse.Namespace) -> Path:
    """The run's manifest. Raises UsageError where the run has another already."""
    from regkit.data.manifest import Case, Manifest, write_manifest

    cases = [
        Case(image.stem, image.resolve(), _labels(image, args), split=name)
        for one in sets
        for name, part in (("train", one.train), ("validation", one.test))
        for image in part
    ]
    manifest, draft = args.out / "pairs.csv", args.out / "pairs.csv.new"
    write_manifest(Manifest(tuple(cases)), draft)
    if manifest.exists() and manifest.read_bytes() != draft.read_bytes():
        draft.unlink()
        raise UsageError(f"{args.out} was begun with other images, lists or labels (its pairs.csv differs); take another --out")
    draft.replace(manifest)
    return manifest


def _labels(image: Path, args: argparse.Namespace) -> Path:
    """The image's label map; with --labels a copy of it in the run, in which the others are background."""
    source = (image.parents[1] / "labels" / image.name).resolve()
    if args.labels is None:
        return source
    from regkit.geometry import write_image

    kept = args.out.absolute() / "labels" / f"{image.stem}.nii.gz"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_image(read(image, tuple(args.labels)).labels, kept)
    return kept


def configuration(name: str, args: argparse.Namespace) -> Any:
    """A stage's configuration."""
    from regkit.registration.toml import override, override_by
    from regkit.training.trainings import training

    stage = STAGES[name]
    learned = "-".join(data.name for data in args.data)
    about = {
        "name": f"{learned}-{name}",
        "description": "Chest X-rays, from one person to another",
        "data": learned,
        "licence": args.licence,
    }
    config = training(stage.kind).config()
    steps = (args.mask_steps if stage.kind in MASKS else args.steps) or stage.steps
    tables = [DATA, LOOP, stage.config, ABOUT.format(**about), f"steps = {steps}\nloop = {{batch = {stage.batch}}}"]
    weights = {key: str(args.out / getattr(stage, key) / LAST) for key in ("attention", "autoencoder") if getattr(stage, key)}
    config = override(config, weights)
    return override_by(config, tables, args.config if stage.kind not in MASKS else None)


def wanted(names: Sequence[str]) -> list[str]:
    """The stages to run, in order, each with those before it. Raises UsageError for a name that there is not."""
    order: list[str] = []
    for name in names:
        for stage in ABLATIONS if name == "ablations" else (name,):
            if stage not in STAGES:
                raise UsageError(f"unknown stage {stage}; there are {', '.join(STAGES)} and ablations")
            order += [one for one in (*STAGES[stage].before, stage) if one not in order]
    return order


def train(name: str, manifest: Path, args: argparse.Namespace) -> None:
    """Trains a stage, or what is left of it."""
    from regkit.commands.console import progress
    from regkit.training.start import start

    run = args.out / name
    if (run / LAST).exists():
        return
    begun = (run / "config.toml").exists()
    if not args.quiet:
        print(f"{name}:", file=sys.stderr, flush=True)
    start(
        STAGES[name].kind, configuration(name, args), manifest, run, resume=begun, quiet=args.quiet, progress=lambda: progress(args.quiet)
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, nargs="+", metavar="DIR", help="directory of a data set, or of several")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="RUN", help="directory of the trainings; made when missing")
    parser.add_argument("--train-list", type=Path, metavar="FILE", help="names of the training images")
    parser.add_argument("--test-list", type=Path, metavar="FILE", help="names of the test images")
    parser.add_argument("--labels", type=int, nargs="+", metavar="N", help="labels that count (default: all above 0)")
    parser.add_argument("--stages", nargs="+", default=list(DEFAULT), metavar="STAGE", help=f"default: {' '.join(DEFAULT)}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML whose keys replace those of the registration")
    parser.add_argument("--steps", type=int, metavar="N", help="of the registrations' trainings, ablations too (default: 5000, best 1200)")
    parser.add_argument("--mask-steps", type=int, metavar="N", help="of the trainings of attention and auto-encoder (default: 2500, 1500)")
    parser.add_argument("--mm", type=float, metavar="MM", help="size of a pixel of the images")
    parser.add_argument("--pairs", type=int, metavar="N", help="of all ordered test pairs only so many")
    parser.add_argument("--licence", default="as the data's", help="of the weights, for their card")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument("--quiet", action="store_true", help="the table only")
    args = parser.parse_args(argv)
    for name in ("steps", "mask_steps"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, but is {getattr(args, name)}")
    return args


def run(args: argparse.Namespace) -> list[str]:
    """Trains and evaluates; the table's lines."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    stages, sets = wanted(args.stages), data_sets(args)
    for name in stages:
        configuration(name, args)  # what is wrong with it is told before anything is written
    manifest = write_pairs(sets, args)
    for name in stages:
        train(name, manifest, args)
    return [line for one in sets for line in table(one, stages, args)]


def table(one: DataSet, stages: Sequence[str], args: argparse.Namespace) -> list[str]:
    """The rows of a data set's test images."""
    scans = [read(path, None if args.labels is None else tuple(args.labels)) for path in one.test]
    lines = [f"{one.name}, {len(one.test)} test images", HEADER, line("no registration", evaluate(identity, scans, one.mm, args.pairs))]
    for name in stages:
        weights, kind = args.out / name / LAST, STAGES[name].kind
        if kind == "segmentation-unet":
            lines.append(line(name, segmentation(weights, scans)))
        elif kind not in MASKS:
            lines.append(line(name, evaluate(Network(weights, scans, name == "best"), scans, one.mm, args.pairs)))
    return lines


def main(argv: list[str] | None = None) -> int:
    """Prints the table; 0 when done, otherwise regkit's exit code."""
    args = parse(argv)
    try:
        lines = run(args)
    except RegkitError as error:
        print(f"train_chest_xray: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
