"""Trains the feature network of the displacement embedding on breathing phantoms and hippocampi, and prints its error against true MIND.

    python examples/train_mind_features.py --data DIR -o runs/features            DIR/hippocampus/{images,labels}, as in real_scans.py
    python examples/train_mind_features.py --data DIR -o runs/features --scans lung-ct brain-oasis-trt      the error on these, too

The network learns from parts of 48^3 voxels, turned, scaled, shifted, of changed contrast and with noise; half of them are of phantoms
(2 mm), half of hippocampi (1 mm). Errors are of whole scans that it has not seen, over all voxels: the mean squared error; the variance of
MIND, which is the error of the best constant; and what share of that variance the network explains. The weights are
RUN/features/last.safetensors, for `embedding.features`; as "learned" regkit brings those that this script's defaults give.
What is done is not done again, and a training that was broken off goes on.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded: idle threads leave the cores to regkit's

from train_lapirn import SETS

from regkit.errors import InputError, RegkitError, UsageError

PART = 48
CONFIG = f"""
[data.input]
shape = [{PART}, {PART}, {PART}]
center = "foreground"
align = "centres"
intensity = {{percentiles = [0.0, 100.0]}}
[data.augmentation]
translation = 0.8
[loop]
log_every = 50
validate_every = 500
save_every = 250
[about]
name = "mind-features"
description = "Features that are near MIND-SSC (radius 1, dilation 1), at every second voxel"
data = "regkit.data.phantom, made; Medical Segmentation Decathlon task 4, hippocampus (doi:10.1038/s41467-022-30695-9)"
licence = "CC BY-SA 4.0, as the hippocampi's"
"""


class Scans(NamedTuple):
    pattern: str
    preset: str


# Real scans that the network is not trained on: their images, and the part of the pipeline's presets that they are seen through.
SCANS = {
    "lung-ct": Scans("lung-ct/*[dg].mha", "ct-lung"),
    "brain-oasis-trt": Scans("brain-oasis-trt/*/t1.nii.gz", "mr-brain"),
}
Errors = dict[str, list[tuple[float, float]]]


def write_manifest_of(args: argparse.Namespace) -> Path:
    """The run's manifest; phantoms are made where they are missing. Hippocampi go two by two, so that there are about as many pairs of
    theirs as of phantoms.
    """
    from regkit.data import phantom
    from regkit.data.manifest import Case, Manifest, write_manifest

    images = sorted(args.data.glob(SETS["hippocampus"].images))
    wanted = 2 * args.phantoms + 10
    if len(images) < wanted:
        raise InputError(f"{args.data / SETS['hippocampus'].images}: {len(images)} images, and {wanted} are needed")
    cases = []
    for n, image in enumerate(images[-wanted:]):
        split = "validation" if n < 10 else "train"
        cases.append(Case(image.name.removesuffix(".nii.gz"), image.absolute(), split=split, group=f"hippocampi-{n // 2}"))
    for split, count, first in (("train", args.phantoms, 1000), ("validation", 2, 2000)):
        for n in range(count):
            folder = args.out / "phantoms" / f"{split}-{n}"
            if not (folder / "moving_points.csv").exists():
                phantom(tuple(args.shape), motion_mm=15.0, landmarks=10, seed=first + n).save(folder)
            cases += [
                Case(f"phantom-{split}-{n}-{role}", (folder / f"{role}.nii.gz").absolute(), split=split, group=f"phantom-{split}-{n}")
                for role in ("fixed", "moving")
            ]
    write_manifest(Manifest(tuple(cases)), args.out / "pairs.csv")
    return args.out / "pairs.csv"


def scans_of(name: str, args: argparse.Namespace) -> list[Path]:
    paths = sorted(args.data.glob(SCANS[name].pattern))[: args.most]
    if not paths:
        raise InputError(f"no scans {args.data / SCANS[name].pattern}")
    return paths


def configuration(args: argparse.Namespace) -> Any:
    from regkit.registration.toml import override_by
    from regkit.training.trainings import training

    config = training("feature-network").config()
    tables = (CONFIG, f"steps = {args.steps}", *args.set)
    return override_by(config, tables, args.config)


def train(manifest: Path, args: argparse.Namespace) -> Path:
    """The weights of the last step, trained if they are not there."""
    from regkit.commands.console import progress
    from regkit.training.start import start

    run = args.out / "features"
    if not (run / "last.safetensors").exists():
        begun = (run / "config.toml").exists()
        start("feature-network", configuration(args), manifest, run, resume=begun, quiet=args.quiet, progress=lambda: progress(args.quiet))
    return run / "last.safetensors"


def errors(weights: Path, manifest: Path, args: argparse.Namespace) -> Errors:
    """Squared error and variance of every scan, by data set."""
    import torch

    from regkit import ops
    from regkit.data.manifest import read_manifest
    from regkit.geometry import as_image
    from regkit.models.weights import load_model
    from regkit.registration import PRESETS
    from regkit.registration.prepare import normalise

    network, card = load_model(weights)
    target = card.training["target"]
    held_out = read_manifest(manifest).split("validation")
    sets = {
        name: [(case.image, preset) for case in held_out if case.group.startswith(name)]
        for name, preset in (("phantom", "ct-lung"), ("hippocampi", "generic"))
    }
    sets |= {name: [(path, SCANS[name].preset) for path in scans_of(name, args)] for name in args.scans}
    found: Errors = {}
    for name, scans in sets.items():
        for path, preset in scans:
            image = torch.from_numpy(normalise(as_image(path, str(path)), PRESETS[preset].intensity).data.copy())[None, None].float()
            with torch.no_grad():
                truth, told = ops.mind_ssc(image, radius=target["radius"], dilation=target["dilation"], pool=2), network(image)
            variance = float(truth.flatten(2).var(2, correction=0).mean())
            found.setdefault(name, []).append((float((told - truth).square().mean()), variance))
    return found


def table(found: Errors) -> list[str]:
    lines = [f"{'':<18} {'scans':>5} {'squared error':>14} {'variance':>9} {'explained':>10}"]
    for name, pairs in found.items():
        mse, variance = (sum(column) / len(pairs) for column in zip(*pairs))
        lines.append(f"{name:<18} {len(pairs):>5} {mse:>14.5f} {variance:>9.5f} {100 * (1 - mse / variance):>8.1f} %")
    return lines


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="directory that holds hippocampus")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="RUN", help="directory of phantoms and training; made when missing"
    )
    parser.add_argument("--scans", nargs="+", default=[], choices=list(SCANS), help="of DIR, whose errors are shown as well")
    parser.add_argument("--most", type=int, default=4, metavar="N", help="scans of each of these (default: %(default)s)")
    parser.add_argument("--phantoms", type=int, default=10, metavar="N", help="to learn from (default: %(default)s)")
    parser.add_argument("--shape", type=int, nargs=3, default=[168, 140, 160], metavar="N", help="of a phantom (default: 168 140 160)")
    parser.add_argument("--steps", type=int, default=1500, metavar="N", help="of the training (default: %(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the training's configuration; may be repeated"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML whose keys replace those of the training, as in regkit train")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument("--quiet", action="store_true", help="the table only")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> list[str]:
    """Makes, trains and measures what is missing; the table's lines."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    configuration(args)  # what is wrong with it, or with what follows, is told before anything is written
    if min(args.phantoms, args.most) < 1:
        raise UsageError(f"--phantoms and --most must be at least 1, but are {args.phantoms} and {args.most}")
    for name in args.scans:
        scans_of(name, args)
    manifest = write_manifest_of(args)
    return table(errors(train(manifest, args), manifest, args))


def main(argv: list[str] | None = None) -> int:
    """Prints the table; 0 when done, otherwise regkit's exit code."""
    args = parse(argv)
    try:
        lines = run(args)
    except RegkitError as error:
        print(f"train_mind_features: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
