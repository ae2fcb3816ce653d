"""Trains GraphRegNet on breathing phantoms, and prints the ablation of Hansen & Heinrich: landmark errors of the embedding alone.

    python examples/train_graphregnet.py -o runs/graph                       phantoms, the training, the table
    python examples/train_graphregnet.py -o runs/graph --lung DIR            and the CT pair of DIR/lung-ct, laid out as in real_scans.py

Rows are what the embedding makes of the same similarity maps (21^3 displacements): of MIND-SSC or of the features that regkit's network
has learned (`--features` takes other weights); no embedding, or PCA with 256 and 512 dimensions, fitted on the pair itself, or over the
training phantoms' maps (streamed); each with and without diffusion over the keypoints' graph; and GraphRegNet on MIND in their place. One
pass, no refinement after it. Last the preset ct-lung, which refines.

An affine leaves 2 mm of a phantom's breath, of a patient's more. So the network and the basis also see each training phantom twice with its
moving scan bent at random, by up to 16 mm (samples.copies, samples.elastic): with phantoms alone, neither carries over to a patient.

Test phantoms have other people and other breaths than those that are learned from; their motion goes from 8 to 25 mm. Errors are of their
landmarks in mm, mean (std) pooled over the phantoms. What is done is not done again, and a training that was broken off goes on.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded: idle threads leave the cores to regkit's

import numpy as np

from regkit.errors import InputError, RegkitError, UsageError

LEAST_MM, MOST_MM = 8.0, 25.0
EMBEDDED = (0, 256, 512)
FITTED = 1000  # maps of a phantom, at most, that a basis is fitted on
CONFIG = """
[data.input]
spacing_mm = {spacing}
align = "affine"
intensity = {{window = [-1000.0, 400.0]}}
[samples]
copies = 3
[loop]
precision = "auto"
log_every = 50
validate_every = 500
save_every = 250
[about]
name = "graphregnet-lung"
description = "Displacements of keypoints in CT of lungs, breathed in to breathed out"
data = "phantoms of regkit.data.phantom, and copies with the moving one bent (made; no patients)"
licence = "Apache-2.0"
"""


def make_phantoms(args: argparse.Namespace) -> Path:
    """Writes the phantoms that are missing; the run's manifest."""
    from regkit.data import phantom
    from regkit.data.manifest import Case, Manifest, write_manifest

    cases = []
    for split, count, first, landmarks in (("train", args.phantoms, 1000, args.landmarks), ("validation", args.test, 0, 300)):
        for n, motion in enumerate(np.linspace(LEAST_MM, MOST_MM, count)):
            folder = args.out / "phantoms" / f"{split}-{n}"
            if not (folder / "moving_points.csv").exists():
                say(args, f"phantom {split} {n}, {motion:.0f} mm")
                phantom(tuple(args.shape), motion_mm=float(motion), landmarks=landmarks, seed=first + n).save(folder)
            for role in ("fixed", "moving"):
                mask, points = ((folder / f"{role}_{what}").absolute() for what in ("mask.nii.gz", "points.csv"))
                image, group = (folder / f"{role}.nii.gz").absolute(), f"{split}-{n}"
                cases.append(Case(f"{group}-{role}", image, None, mask, points, split, group, role))
    write_manifest(Manifest(tuple(cases)), args.out / "pairs.csv")
    return args.out / "pairs.csv"


def configuration(args: argparse.Namespace) -> Any:
    from regkit.registration.toml import override_by
    from regkit.training.trainings import training

    config = training("graphregnet").config()
    tables = (CONFIG.format(spacing=args.spacing), f"steps = {args.steps}", *args.set)
    return override_by(config, tables, args.config)


def train(manifest: Path, args: argparse.Namespace) -> Path:
    """The weights of the last step, trained if they are not there."""
    from regkit.commands.console import progress
    from regkit.training.start import start

    run = args.out / "graphregnet"
    if not (run / "last.safetensors").exists():
        begun = (run / "config.toml").exists()
        start("graphregnet", configuration(args), manifest, run, resume=begun, quiet=args.quiet, progress=lambda: progress(args.quiet))
    return run / "last.safetensors"


def fit_basis(features: str, manifest: Path, args: argparse.Namespace) -> Path:
    """A PCA basis over the maps of all training phantoms, fitted if it is not there."""
    from regkit.data.config import datasets
    from regkit.data.manifest import read_manifest
    from regkit.registration.basis import Basis, StreamedPCA, search_of
    from regkit.registration.config import EmbeddingStage
    from regkit.registration.descriptors import identity
    from regkit.training.graphregnet import training_maps

    stage = EmbeddingStage(features=features)
    path = args.out / f"basis-{identity(stage)[:12]}.safetensors"
    if not path.exists():
        config = configuration(args)
        data = datasets(read_manifest(manifest), config.data, multiple=1, cache_dir=args.out / ".regkit-cache")
        streamed = StreamedPCA(2 * EMBEDDED[-1])
        for maps in training_maps(config, data, features):
            streamed.add(maps.cost[:: -(-len(maps.cost) // FITTED)])
        mean, directions, share = streamed.result(EMBEDDED[-1])
        say(args, f"basis: {streamed.count} maps, {EMBEDDED[-1]} directions hold {100 * share:.1f} % of their variance")
        Basis(mean, directions, search_of(stage, 3), f"{args.phantoms} phantoms").save(path)
    return path


def methods(bases: dict[str, Path], weights: Path, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Arguments of regkit.register by the name of the row. bases: by `embedding.features`."""
    from regkit.registration import PRESETS

    preset = replace(PRESETS["ct-lung"], spacing_mm=args.spacing)
    alone = replace(preset, refine=preset.refine.off())
    rows: dict[str, dict[str, Any]] = {"affine": {"config": replace(alone, embedding=replace(alone.embedding, enabled=False))}}
    for features, basis in bases.items():
        said = "MIND" if features == "mind" else "learned"
        for d in EMBEDDED:
            for where, path in (("", None),) if d == 0 else (("of the pair", None), ("of the corpus", str(basis))):
                for diffusion in (0.0, alone.embedding.diffusion):
                    name = f"{said}, {'no embedding' if d == 0 else f'PCA {d} {where}'}, {'diffusion' if diffusion else 'none'}"
                    stage = replace(alone.embedding, features=features, dimensions=d, basis=path, diffusion=diffusion)
                    rows[name] = {"config": replace(alone, embedding=stage)}
    rows["GraphRegNet"] = {"config": alone, "model": str(weights)}
    rows["GraphRegNet, refined"] = {"config": preset, "model": str(weights), "refine": True}
    rows["preset ct-lung"] = {"config": preset}
    return rows


def evaluate(name: str, how: dict[str, Any], args: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Landmark errors in mm by data set, a list a pair."""
    import regkit
    from regkit.geometry import atomic_path, read_points
    from regkit.metrics import tre

    sets = {"phantoms": [args.out / "phantoms" / f"validation-{n}" for n in range(args.test)]}
    if args.lung is not None:
        sets["lung CT"] = [args.lung / "lung-ct"]
    kept = args.out / "scores" / f"{name.replace(', ', '-').replace(' ', '-')}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    for group, folders in sets.items():
        scores = found.setdefault(group, [])
        for folder in folders[len(scores) :]:
            suffix, ending = (".nii.gz", "_points.csv") if group == "phantoms" else (".mha", "_landmarks.txt")
            scans = {role: folder / f"{role}{suffix}" for role in ("fixed", "moving", "fixed_mask", "moving_mask")}
            marks = [read_points(folder / f"{role}{ending}") for role in ("fixed", "moving")]
            result = regkit.register(**scans, **how, threads=args.threads)
            scores.append(tre(result.transform.apply(marks[0].coordinates), marks[1]).tolist())
            say(args, f"{name}, {folder.name}: {np.mean(scores[-1]):.2f} mm")
            with atomic_path(kept) as draft:
                draft.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return found


def table(results: dict[str, dict[str, list[list[float]]]]) -> list[str]:
    groups = list(next(iter(results.values())))
    lines = [f"{'TRE, mm':<44}" + "".join(f" {group:>16}" for group in groups)]
    for name, found in results.items():
        cells = [np.concatenate(found[group]) for group in groups]
        lines.append(f"{name:<44}" + "".join(f" {f'{v.mean():.2f} ({v.std():.2f})':>16}" for v in cells))
    return lines


def say(args: argparse.Namespace, line: str) -> None:
    if not args.quiet:
        print(line, file=sys.stderr, flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="RUN", help="directory of phantoms and training; made when missing"
    )
    parser.add_argument("--features", default="learned", metavar="FILE", help="weights of a feature-network (default: regkit's own)")
    parser.add_argument("--lung", type=Path, metavar="DIR", help="directory that holds lung-ct")
    parser.add_argument("--phantoms", type=int, default=20, metavar="N", help="to learn from (default: %(default)s)")
    parser.add_argument("--test", type=int, default=10, metavar="N", help="to measure on (default: %(default)s)")
    parser.add_argument("--shape", type=int, nargs=3, default=[168, 140, 160], metavar="N", help="of a phantom (default: 168 140 160)")
    parser.add_argument("--landmarks", type=int, default=1500, metavar="N", help="of a training phantom (default: %(default)s)")
    parser.add_argument("--spacing", type=float, default=2.0, metavar="MM", help="of the working grid (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3500, metavar="N", help="of the training (default: %(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the training's configuration; may be repeated"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML whose keys replace those of the training, as in regkit train")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument("--quiet", action="store_true", help="the table only")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> list[str]:
    """Makes, trains and evaluates what is missing; the table's lines."""
    import torch

    from regkit.registration.config import EmbeddingStage
    from regkit.registration.descriptors import descriptors

    if args.threads:
        torch.set_num_threads(args.threads)
    configuration(args)  # what is wrong with it, or with what follows, is told before anything is written
    if min(args.phantoms, args.test) < 1:
        raise UsageError(f"--phantoms and --test must be at least 1, but are {args.phantoms} and {args.test}")
    descriptors(EmbeddingStage(features=args.features), 3, "cpu")
    if args.lung is not None and not (args.lung / "lung-ct").is_dir():
        raise InputError(f"no such folder: {args.lung / 'lung-ct'}; --lung names the directory that holds it")
    args.out.mkdir(parents=True, exist_ok=True)
    manifest = make_phantoms(args)
    weights, bases = train(manifest, args), {features: fit_basis(features, manifest, args) for features in ("mind", args.features)}
    return table({name: evaluate(name, how, args) for name, how in methods(bases, weights, args).items()})


def main(argv: list[str] | None = None) -> int:
    """Prints the table; 0 when done, otherwise regkit's exit code."""
    args = parse(argv)
    try:
        lines = run(args)
    except RegkitError as error:
        print(f"train_graphregnet: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
