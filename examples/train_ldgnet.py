"""Trains LDGNet (Sun & Du) and what its paper takes away from it, and prints the paper's two tables.

    python examples/train_ldgnet.py --data DIR --out runs/ldgnet                                  model D, the whole of it
    python examples/train_ldgnet.py --data DIR --out runs/ldgnet --ablation --seeds 0 1           A, B, C and D, each with two seeds
    python examples/train_ldgnet.py --ixi DIR --out runs/ixi --ablation --dilations 6 12 18 --steps 40300 --set loop.learning_rate=1e-4

    A  VoxelMorph      B  and guidance      C  and enhancement      D  LDGNet: both

--data: DIR/brain-oasis-trt/NN/{t1,labels}.nii.gz, the last 4 for the test (12 ordered pairs); aligned by regkit's affine, at 2 mm.
--ixi:  the IXI scans as TransMorph distributes them (atlas to subject): DIR/{Train,Val,Test}/*.pkl of (image, labels) and DIR/atlas.pkl; or
        NAME.nii.gz with NAME_seg.nii.gz beside it, in the same folders. Test pairs count; Val is not looked at. Pickles are read as arrays
        and nothing else, and kept as NIfTI in the run.

At 2 mm the coarsest grid is 5 x 6 x 5: of the paper's dilations 6, 12, 18 none reaches another voxel, and C would be a network of 1^3
convolutions there. By default the example takes 1, 2, 3; --dilations 6 12 18 is the paper. All models learn from the same pairs in the same
order; Dice and folds are of test pairs by nearest neighbour on the fixed map's own grid; p is Wilcoxon's signed-rank test over the pairs.
What is done is not done again, and what was broken off goes on.
"""

import argparse
import io
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded: idle threads leave the cores to regkit's

import numpy as np
from train_lapirn import BRAIN, SETS, write_pairs

from regkit.errors import InputError, RegkitError

MODELS = {"A": (False, False), "B": (True, False), "C": (False, True), "D": (True, True)}  # guidance, enhancement
ROWS = {"A": "A  VoxelMorph", "B": "B  guidance", "C": "C  enhancement", "D": "D  LDGNet"}
IXI = """
[data.input]
shape = [160, 192, 224]
intensity = {percentiles = [0.0, 100.0]}
[data]
mirror = [0, 1, 2]
augmentation = {probability = 0.0}
[loop]
precision = "auto"
schedule = "cosine"
log_every = 100
validate_every = 4030
save_every = 1000
"""
ABOUT = '[about]\nname = "{name}"\ndescription = "{description}"\ndata = "{data}"\nlicence = "{licence}"\n'
IXI_ABOUT = {
    "description": "Brain MR, from an atlas to a person",
    "data": "IXI, as prepared for TransMorph (Chen et al. 2022)",
    "licence": "CC BY-SA 3.0, as the data's",
}
Figures = dict[str, float]


class ArraysOnly(pickle.Unpickler):
    """Reads pickled numpy arrays; a pickle that names anything else is refused, for it could run code."""

    ALLOWED = {
        (module, name)
        for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("ndarray", "dtype", "_reconstruct", "scalar")
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, and not arrays alone")
        return super().find_class(module, name)


def arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Image and label map of a .pkl. Raises InputError for a file that holds something else."""
    try:
        image, labels = ArraysOnly(io.BytesIO(path.read_bytes())).load()
        if image.shape != labels.shape or image.ndim != 3:
            raise ValueError(f"image and labels must be 3-D and of one shape, but are {image.shape} and {labels.shape}")
    except Exception as error:
        raise InputError(f"{path}: not an (image, labels) pair of arrays: {error}") from None
    return np.asarray(image, np.float32), np.asarray(labels).astype(np.uint8)


def scan_files(path: Path, kept: Path) -> tuple[Path, Path]:
    """The NIfTI files of a scan and its labels; of a .pkl those written to `kept`."""
    if path.suffix != ".pkl":
        return path, path.with_name(path.name.removesuffix(".nii.gz") + "_seg.nii.gz")
    from regkit.geometry import Image, write_image

    files = kept / f"{path.stem}.nii.gz", kept / f"{path.stem}_seg.nii.gz"
    if not all(file.exists() for file in files):
        kept.mkdir(parents=True, exist_ok=True)
        for array, file in zip(arrays(path), files):
            write_image(Image.from_array(array), file)
    return files


def write_ixi(home: Path, run: Path) -> Path:
    """The run's manifest of an IXI folder: the atlas moves, the scans of Train and Test are fixed."""
    from regkit.data.manifest import Case, Manifest, write_manifest

    def scans(folder: str) -> list[Path]:
        found = sorted((home / folder).glob("*.pkl")) or sorted((home / folder).glob("*.nii.gz"))
        return [path for path in found if not path.name.endswith("_seg.nii.gz")]

    atlases = [path for path in (home / "atlas.pkl", home / "atlas.nii.gz") if path.exists()]
    parts = {"train": scans("Train"), "validation": scans("Test")}
    if not atlases or not all(parts.values()):
        raise InputError(f"{home}: atlas.pkl (or .nii.gz), Train and Test are needed; see --help for the layout")
    cases = []
    for split, paths in parts.items():
        for role, path in [("moving", atlases[0]), *(("fixed", path) for path in paths)]:
            image, label = scan_files(path, run / "ixi")
            cases.append(Case(f"{split}-{path.name.split('.')[0]}", image.absolute(), label.absolute(), split=split, role=role))
    write_manifest(Manifest(tuple(cases)), run / "pairs.csv")
    return run / "pairs.csv"


def configuration(model: str, seed: int, args: argparse.Namespace) -> Any:
    """A model's configuration."""
    from regkit.registration.toml import override_by
    from regkit.training.trainings import training

    guidance, enhancement = MODELS[model]
    about = {**(IXI_ABOUT if args.ixi else SETS["brain"].about), "name": f"ldgnet-{model}-seed{seed}"}
    tables = [
        IXI if args.ixi else BRAIN,
        ABOUT.format(**about),
        f"steps = {args.steps}\nloop.seed = {seed}\n"
        f"network = {{guidance = {str(guidance).lower()}, enhancement = {str(enhancement).lower()}, dilations = {args.dilations}}}",
        *args.set,
    ]
    config = training("ldgnet").config()
    return override_by(config, tables, args.config)


def train(model: str, seed: int, manifest: Path, args: argparse.Namespace) -> list[Figures]:
    """Trains a model, or what is left of it; the figures of every test pair, with the weights of the last step."""
    import torch

    from regkit.commands.console import progress
    from regkit.geometry import atomic_path
    from regkit.training.registration import measure
    from regkit.training.start import start

    run = args.out / f"{model}-seed{seed}"
    scored = run / "test.json"
    if scored.exists():
        return json.loads(scored.read_text("utf-8"))
    if not args.quiet:
        print(f"{ROWS[model]}, seed {seed}:", file=sys.stderr, flush=True)
    config = configuration(model, seed, args)
    begun = (run / "config.toml").exists()
    task = start("ldgnet", config, manifest, run, resume=begun, quiet=args.quiet, progress=lambda: progress(args.quiet))
    network = task.network.eval()
    device, found = next(network.parameters()).device, []
    for n in range(len(task.validation)):
        pair = task.validation[n]
        with torch.no_grad():
            u = network(pair.fixed.to(device), pair.moving.to(device))
        still = measure(pair, torch.zeros_like(u))["dice"]
        found.append({"pair": f"{pair.fixed_case.name}-{pair.moving_case.name}", "before": still, **measure(pair, u)})
    with atomic_path(scored) as draft:
        draft.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def parameters(model: str, args: argparse.Namespace) -> int:
    """How many a model has. Raises UsageError for what is wrong with its configuration."""
    from regkit.training.trainings import network_of

    return sum(p.numel() for p in network_of("ldgnet", configuration(model, args.seeds[0], args)).parameters())


def tables(results: dict[tuple[str, int], list[Figures]], args: argparse.Namespace) -> list[str]:
    """The paper's Table 1 (Dice, folds) and, of several models, Table 2 (each part's gain over A)."""
    first = next(iter(results.values()))
    before = np.array([figures["before"] for figures in first])
    lines = [f"{'model':<18} {'seed':>4} {'n':>4} {'Dice':>16} {'% of |J| <= 0':>14} {'parameters':>11}"]
    lines.append(f"{'initial alignment':<18} {'':>4} {len(before):>4} {before.mean():>8.4f} ({before.std():.4f})")
    for (model, seed), found in results.items():
        dice, folds = (np.array([figures[name] for figures in found]) for name in ("dice", "folds"))
        shown = f"{dice.mean():>8.4f} ({dice.std():.4f})"
        lines.append(f"{ROWS[model]:<18} {seed:>4} {len(dice):>4} {shown} {100 * folds.mean():>14.4f} {parameters(model, args):>11,}")
    if len({model for model, _ in results}) > 1 and "A" in args.models:
        lines += ["", f"{'gain over A':<18} {'seed':>4} {'Dice':>8} {'p':>9} {'pairs better':>13}"]
        lines += [gain(model, seed, results) for model, seed in results if model != "A"]
    return lines


def gain(model: str, seed: int, results: dict[tuple[str, int], list[Figures]]) -> str:
    from scipy.stats import wilcoxon

    with_it, without = (np.array([figures["dice"] for figures in results[key, seed]]) for key in (model, "A"))
    more = with_it - without
    p = wilcoxon(more).pvalue if more.any() else 1.0
    return f"{ROWS[model]:<18} {seed:>4} {more.mean():>+8.4f} {p:>9.2g} {(more > 0).sum():>6} of {len(more)}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="DIR", help="directory that holds brain-oasis-trt")
    source.add_argument("--ixi", type=Path, metavar="DIR", help="directory of the IXI scans")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="RUN", help="directory of the trainings; made when missing")
    parser.add_argument("--ablation", action="store_true", help="all four models (as --models A B C D)")
    parser.add_argument("--models", nargs="+", default=["D"], choices=list(MODELS), help="default: D")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="of weights, pairs and augmentation (default: 0)")
    parser.add_argument("--steps", type=int, default=1500, metavar="N", help="of each training (default: %(default)s; the paper: 40300)")
    parser.add_argument("--dilations", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="of the enhancement (default: 1 2 3)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the configuration; may be repeated")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML whose keys replace those of the training, as in regkit train")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument("--quiet", action="store_true", help="the tables only")
    args = parser.parse_args(argv)
    if args.ablation:
        args.models = list(MODELS)
    return args


def run(args: argparse.Namespace) -> list[str]:
    """Trains and evaluates; the tables' lines."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    for model in args.models:
        parameters(model, args)  # what is wrong with it is told before anything is written
    manifest = write_ixi(args.ixi, args.out) if args.ixi else write_pairs(SETS["brain"], args.data, args.out)
    results = {(model, seed): train(model, seed, manifest, args) for seed in args.seeds for model in args.models}
    return tables(results, args)


def main(argv: list[str] | None = None) -> int:
    """Prints the tables; 0 when done, otherwise regkit's exit code."""
    args = parse(argv)
    try:
        lines = run(args)
    except RegkitError as error:
        print(f"train_ldgnet: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
