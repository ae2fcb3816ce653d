"""Trains the similarity-steered CNN (Cao et al. 2017) on brains and prints the paper's Table 1 for brains that it has not seen.

    python examples/train_similarity_cnn.py --data DIR -o runs/similarity-cnn                     a narrow network, for a CPU
    python examples/train_similarity_cnn.py --data DIR -o runs/similarity-cnn --ablation          and without the cue, and without Eq. (1)
    python examples/train_similarity_cnn.py --data DIR -o runs/paper --width 1 --patch 27 --spacing 1 --pairs 30 --steps 350000    on a GPU

--data: DIR/brain-oasis-trt/NN/{t1,labels}.nii.gz; the last 4 people are for the test (12 ordered pairs), the others to learn from. All are
aligned by regkit's affine. The tissues of Table 1 are made of the 98 labels (TISSUES): the cortex and grey nuclei; white matter as far as
it has a label (of the cerebellum, the brain stem and its surroundings; that of the cerebrum has none in this atlas); the ventricles. The
same maps give the motion to learn from: regkit's preset mr-brain on the intensities, then diffeomorphic Demons on the tissues.

The paper's network takes 43 GFLOP to learn from one patch, too many for a CPU. So by default, which is what README shows, the convolutions
have an eighth of its channels, patches 19 voxels along an axis, and scans are seen at 2 mm. The box is about as large as the paper's; 0.9 %
of its voxels are active points, in two composed iterations.

Dice and ASSD (mm) are of nearest-neighbour tissues on the fixed map's own grid, mean (std) over the pairs; p is of the paired t-test
against Demons. What is done is not done again, and what was broken off goes on.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded: idle threads leave the cores to regkit's

import numpy as np

from regkit.errors import InputError, RegkitError, UsageError

TISSUES = {  # by FreeSurfer's numbers; what is in none of the others is grey matter, and vessels are no tissue
    "WM": (2, 41, 7, 46, 16, 28, 60, 85),  # cerebrum, cerebellum, brain stem, ventral diencephalon, optic chiasm
    "CSF": (4, 43, 5, 44, 14, 15, 24, 72),  # lateral, inferior lateral, third, fourth and fifth ventricle, CSF
}
VESSELS = (30, 62)
NAMES = ("GM", "WM", "CSF")  # labels 1, 2, 3
TEST = 4
ARMS = {
    "full": ("proposed", ""),
    "no-cue": ("without the cue", "network.kernel_sizes = []"),
    "even": ("without Eq. (1)", 'samples.sampling = "even"'),
}
BASELINES = {"demons": "Demons", "mr-brain": "local NCC, no training"}
CONFIG = """
[network]
width = {width}
longest = {longest}
patch = {patch}
bfloat16 = {bfloat16}
[samples]
pairs = {pairs}
per_pair = 24000
held_out = 1000
[data.input]
intensity = {{percentiles = [0.5, 99.5]}}
spacing_mm = {spacing}
shape = {shape}
center = "foreground"
align = "affine"
[loop]
batch = 32
precision = "auto"
schedule = "cosine"
learning_rate = 1e-3
clip = 1.0
log_every = 100
validate_every = 1000
save_every = 500
[about]
name = "similarity-cnn-{arm}"
description = "Skull-stripped T1 brains, from one person to another"
data = "Mindboggle-101 OASIS-TRT (Klein & Tourville 2012, doi:10.3389/fnins.2012.00171)"
licence = "CC BY-NC-SA 3.0, as the data's: not to be shipped"
"""
BOX_MM = (220, 184, 184)  # the paper's is 220 x 220 x 184
LONGEST_MM = 7.0  # the paper's
TIMED = 64  # patches
Scores = list[dict[str, Any]]  # a pair each


def tissues(labels: np.ndarray) -> np.ndarray:
    """uint8: 1 grey matter, 2 white matter, 3 ventricles, of FreeSurfer's labels."""
    found = np.where((labels > 0) & ~np.isin(labels, VESSELS), 1, 0).astype(np.uint8)
    for number, name in enumerate(NAMES[1:], start=2):
        found[np.isin(labels, TISSUES[name])] = number
    return found


def write_pairs(data: Path, run: Path) -> Path:
    """The run's manifest, and the tissue maps beside it."""
    from regkit.data.manifest import Case, Manifest, write_manifest
    from regkit.geometry import Image, read_image, write_image

    images = sorted(data.glob("brain-oasis-trt/*/t1.nii.gz"))
    if len(images) < TEST + 2:
        raise InputError(f"{data}/brain-oasis-trt/*/t1.nii.gz: {len(images)} scans; {TEST} are for the test, and training needs 2 more")
    cases = []
    for n, image in enumerate(images):
        name, kept = image.parent.name, run / "tissues" / f"{image.parent.name}.nii.gz"
        if not kept.exists():
            labels = read_image(image.with_name("labels.nii.gz"))
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_image(Image(tissues(np.asarray(labels.data)), labels.grid), kept)
        split = "train" if n < len(images) - TEST else "validation"
        cases.append(Case(name, image.absolute(), kept.absolute(), split=split))
    write_manifest(Manifest(tuple(cases)), run / "pairs.csv")
    return run / "pairs.csv"


def configuration(arm: str, args: argparse.Namespace) -> Any:
    """What is trained, and how."""
    import torch

    from regkit.registration.toml import override_by
    from regkit.training.trainings import training

    if args.spacing <= 0 or args.width <= 0:
        raise UsageError(f"--spacing and --width must be above 0, but are {args.spacing} and {args.width}")
    shape = [2 * round(length / args.spacing / 2) for length in BOX_MM]
    native = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    table = CONFIG.format(
        **{name: float(getattr(args, name)) for name in ("width", "spacing")},
        longest=LONGEST_MM / args.spacing,
        patch=args.patch,
        pairs=args.pairs,
        shape=shape,
        arm=arm,
        bfloat16=str(native).lower(),
    )
    config = training("similarity-cnn").config()
    tables = (table, f"steps = {args.steps}", ARMS[arm][1], *args.set)
    return override_by(config, tables, args.config)


def train(arm: str, manifest: Path, args: argparse.Namespace) -> Path:
    """Trains an arm, or what is left of it; the weights of the last step."""
    from regkit.commands.console import progress
    from regkit.training.start import start

    run = args.out / arm
    weights = run / "last.safetensors"
    if not weights.exists():
        say(args, f"{ARMS[arm][0]}:")
        begun = (run / "config.toml").exists()
        start(
            "similarity-cnn", configuration(arm, args), manifest, run, resume=begun, quiet=args.quiet, progress=lambda: progress(args.quiet)
        )
    return weights


def compare(transform: Any, fixed: Any, moving: Any) -> dict[str, list[float]]:
    """Dice and ASSD of the tissues of two maps (Images), the moving one carried over by a transform; None: as they lie."""
    from regkit.geometry import resample
    from regkit.metrics import dice, surface_distances

    moved = resample(moving, fixed.grid, transform, labels=True)
    numbers = range(1, len(NAMES) + 1)
    overlap, distances = dice(fixed, moved, list(numbers)), surface_distances(fixed, moved, labels=list(numbers))
    return {"dice": [overlap[n] for n in numbers], "assd": [distances[n]["assd"] for n in numbers]}


def evaluate(name: str, how: dict[str, Any], manifest: Path, args: argparse.Namespace, count: int | None = None) -> Scores:
    """Registers the test pairs, or the first `count`, by regkit.register(**how); of the affine too, which all methods share."""
    import regkit
    from regkit.data.manifest import read_manifest
    from regkit.geometry import atomic_path, read_image

    kept = args.out / "scores" / f"{name}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(kept.read_text("utf-8")) if kept.exists() else []
    cases = read_manifest(manifest).split("validation")
    pairs = [(a, b) for a in cases for b in cases if a is not b][: count or None]
    for fixed, moving in pairs[len(found) :]:
        started = time.perf_counter()
        result = regkit.register(fixed.image, moving.image, threads=args.threads, **how)
        score = {"pair": f"{fixed.name}-{moving.name}", "seconds": time.perf_counter() - started}
        maps = read_image(fixed.label), read_image(moving.label)
        score |= compare(result.transform, *maps) | {"folds": result.record.metrics["jacobian"]["folds"]}
        if name == "demons":
            score["affine"] = compare(result.transform.parts[0], *maps)
        found.append(score)
        with atomic_path(kept) as draft:
            draft.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        say(args, f"{name}: {score['pair']}, Dice {' '.join(f'{d:.3f}' for d in score['dice'])}, {score['seconds']:.0f} s")
    return found[: len(pairs)]


def table(rows: dict[str, Scores]) -> list[str]:
    """The paper's Table 1: a line a method; * where the paired t-test against Demons, over the pairs that both have, finds p < 0.05."""
    from scipy.stats import ttest_rel

    head = "".join(f"{f'{measure} {name}':>15}" for measure in ("Dice", "ASSD") for name in NAMES)
    lines, tests = [f"{'method':<24} {'n':>3}{head} {'folds %':>8} {'s':>5}"], []
    for method, found in rows.items():
        shown, p = [], []
        for measure in ("dice", "assd"):
            values = np.array([score[measure] for score in found])
            known = np.array([score[measure] for score in rows[BASELINES["demons"]]])[: len(found)]
            for n in range(len(NAMES)):
                p.append(ttest_rel(values[:, n], known[:, n]).pvalue if len(found) > 1 else float("nan"))
                shown.append(f"{values[:, n].mean():.3f} ({values[:, n].std():.3f}){'*' if p[-1] < 0.05 else ' '}")
        line = f"{method:<24} {len(found):>3}{''.join(f'{text:>15}' for text in shown)}"
        if "seconds" in found[0]:
            line += f" {100 * np.mean([score['folds'] for score in found]):>8.4f} {np.median([score['seconds'] for score in found]):>5.0f}"
        lines.append(line)
        if method not in ("affine", BASELINES["demons"]):
            tests.append(f"{method:<24} {'p':>3}{''.join(f'{value:>14.2g} ' for value in p)}")
    return [*lines, "", "paired t-test against Demons", *tests]


def throughput() -> list[str]:
    """Patches a second with the fused op, and with torch: patches cut out of unfolded images, maps by a convolution for each patch."""
    import torch

    from regkit import ops

    draws = torch.Generator().manual_seed(0)
    fixed, moving = (torch.rand(1, 1, 96, 96, 96, generator=draws) for _ in range(2))
    points = torch.randint(20, 76, (1, TIMED, 3), generator=draws).float()
    lines, results = [], []
    for name, work in (("ops.similarity_maps", ops.similarity_maps), ("torch unfold and conv", unfolded_maps)):
        results.append(work(fixed, moving, points))  # warms up
        started = time.perf_counter()
        work(fixed, moving, points)
        lines.append(f"{name:<24} {TIMED / (time.perf_counter() - started):>8.0f} patches a second")
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)
    return lines


def unfolded_maps(fixed: Any, moving: Any, points: Any, patch: int = 27, sizes: tuple[int, ...] = (3, 5, 7, 9)) -> Any:
    """What regkit.ops.similarity_maps gives for points well inside, (1, N, 2 + K, patch, patch, patch), in torch alone."""
    import torch
    import torch.nn.functional as F

    def cut(image: torch.Tensor, size: int) -> torch.Tensor:
        windows = image[0, 0].unfold(0, size, 1).unfold(1, size, 1).unfold(2, size, 1)
        i, j, k = (points[0].long() - size // 2).T
        return windows[i, j, k]  # (N, size, size, size)

    found = [cut(fixed, patch), cut(moving, patch)]
    for size in sizes:
        kernels, wide = cut(fixed, size)[:, None], cut(moving, patch + size - 1)[None]
        dots = F.conv3d(wide, kernels, groups=len(kernels))[0]
        norms = F.conv3d(wide[0][:, None].square(), torch.ones(1, 1, size, size, size))[:, 0].clamp_min(0).sqrt()
        found.append(dots / (kernels.square().sum((1, 2, 3, 4)).sqrt()[:, None, None, None] * norms + 1e-6))
    return torch.stack(found, 1)[None]


def say(args: argparse.Namespace, line: str) -> None:
    if not args.quiet:
        print(line, file=sys.stderr, flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="directory that holds brain-oasis-trt")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="RUN", help="directory of the trainings; made when missing")
    parser.add_argument("--ablation", action="store_true", help="also without the cue, and with places drawn evenly")
    parser.add_argument("--arms", nargs="+", default=["full"], choices=list(ARMS), help="what to train (default: full)")
    parser.add_argument("--pairs", type=int, default=10, metavar="N", help="to learn from (default: %(default)s; the paper: 30)")
    parser.add_argument("--steps", type=int, default=3000, metavar="N", help="of each training, of 32 patches (default: %(default)s)")
    parser.add_argument("--width", type=float, default=0.125, metavar="W", help="of the network, over the paper's (default: %(default)s)")
    parser.add_argument("--spacing", type=float, default=2.0, metavar="MM", help="voxels that it sees (default: %(default)s; the paper: 1)")
    parser.add_argument("--patch", type=int, default=19, metavar="N", help="voxels of a patch along an axis (default: %(default)s)")
    parser.add_argument("--test-pairs", type=int, metavar="N", help="to evaluate the ablation on (default: all 12)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the configuration; may be repeated")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML whose keys replace those of the training, as in regkit train")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument("--quiet", action="store_true", help="the tables only")
    args = parser.parse_args(argv)
    if args.ablation:
        args.arms = list(ARMS)
    return args


def run(args: argparse.Namespace) -> list[str]:
    """Trains and evaluates; the tables' lines."""
    import torch

    from regkit.training.trainings import network_of

    if args.threads:
        torch.set_num_threads(args.threads)
    for arm in args.arms:
        network_of("similarity-cnn", configuration(arm, args))  # what is wrong with it is told before anything is written
    manifest = write_pairs(args.data, args.out)
    weights = {arm: train(arm, manifest, args) for arm in args.arms}
    rows: dict[str, Scores] = {}
    for preset, name in BASELINES.items():
        rows[name] = evaluate(preset, {"preset": preset}, manifest, args)
    rows = {"affine": [score["affine"] for score in rows[BASELINES["demons"]]]} | rows
    for arm, path in weights.items():
        how = {"preset": "mr-brain", "model": str(path)}
        rows[ARMS[arm][0]] = evaluate(arm, how, manifest, args, None if arm == "full" else args.test_pairs)
    return [*table(rows), "", *throughput()]


def main(argv: list[str] | None = None) -> int:
    """Prints the tables; 0 when done, otherwise regkit's exit code."""
    args = parse(argv)
    try:
        lines = run(args)
    except RegkitError as error:
        print(f"train_similarity_cnn: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
