"""Registers DIR-Lab's 4DCT and COPD pairs and prints the target registration errors as papers do (Hansen & Heinrich 2020, Table 1).

    python examples/evaluate_dirlab.py --data DIR                          the whole pipeline (preset ct-lung), both sets
    python examples/evaluate_dirlab.py --data DIR --paper                  the paper's method alone: one level of displacement embedding,
                                                                           with 256 and 512 dimensions
    python examples/evaluate_dirlab.py --data DIR --model graphregnet-lung [--paper]
                                                                           and a trained network in the embedding's place
    python examples/evaluate_dirlab.py --data DIR 4dct --cases 1 5 --config mine.toml --json 4dct.json

DIR: a folder with the files as DIR-Lab gives them out (regkit.data.dirlab says their names), in whatever folders below it. Cases that are
not there are left out, and the table says how many there were. Masks of the lungs are made from grey values (regkit.features.lung_mask), or
read from --masks MASKS/{4dct,copd}-N_{inhale,exhale}.nii.gz.

Errors are of the 300 landmarks a case that were given out, pooled over the cases: mean (standard deviation) in mm, once continuous and once
with the mapped landmark put on the nearest voxel of the moving scan, as DIR-Lab's site, GraphRegNet and pTVreg count. The fixed scan is
that of inhaling unless --fixed says otherwise: papers differ.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from regkit.errors import InputError, RegkitError

SETS = {"4dct": "4D-CT", "copd": "COPD"}
PUBLISHED = {  # initial, and the paper's own: continuous or snapped is not said
    "initial (published)": {"4dct": "8.46 (6.58)", "copd": "23.36 (11.86)"},
    "ours-256 (published)": {"4dct": "2.13 (1.65)", "copd": "4.73 (8.56)"},
    "ours-512 (published)": {"4dct": "1.97 (1.42)", "copd": "3.42 (5.63)"},
}
PAPER_DIMENSIONS = (256, 512)


def methods(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What is compared: arguments of regkit.register by the name of the row."""
    from regkit.commands.config import build
    from regkit.models.weights import load_card
    from regkit.registration.toml import override, read_toml

    values = {} if args.config is None else read_toml(args.config)
    named = values.pop("preset", None)
    config = override(build(args.preset or named or "ct-lung", None), values, str(args.config))
    if not args.paper:
        rows = {f"regkit, {config.preset}": {"config": config}}
    else:
        alone = replace(config, refine=config.refine.off())
        stages = {d: replace(alone.embedding, dimensions=d, keypoints=1500) for d in PAPER_DIMENSIONS}
        rows = {f"embedding alone, {d}": {"config": replace(alone, embedding=stage)} for d, stage in stages.items()}
    if args.model is not None:
        load_card(args.model)  # what cannot be used is told before anything is registered
        rows[Path(args.model).stem] = {"config": config, "model": args.model, "refine": not args.paper}
    return rows


def masks(case: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Masks of the fixed and the moving scan."""
    from regkit.features import lung_mask

    if args.masks is None:
        return {"fixed_mask": lung_mask(case.fixed), "moving_mask": lung_mask(case.moving)}
    phases = (args.fixed, "exhale" if args.fixed == "inhale" else "inhale")
    return {f"{name}_mask": args.masks / f"{case.name}_{phase}.nii.gz" for name, phase in zip(("fixed", "moving"), phases)}


def errors(case: Any, how: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """A case's errors (N,) in mm, both ways, before and after; seconds and folds."""
    import regkit
    from regkit.metrics import tre, tre_snapped

    given, begun = masks(case, args), time.perf_counter()
    result = regkit.register(case.fixed, case.moving, **how, device=args.device, threads=args.threads, **given)
    seconds = time.perf_counter() - begun
    mapped = result.transform.apply(case.fixed_points.coordinates)
    return {
        "case": case.name,
        "initial": tre(case.fixed_points, case.moving_points).tolist(),
        "continuous": tre(mapped, case.moving_points).tolist(),
        "snapped": tre_snapped(mapped, case.moving_points, case.moving.grid).tolist(),
        "seconds": seconds,
        "folds": result.record.metrics["jacobian"]["folds"],
    }


def pooled(found: list[dict[str, Any]], what: str) -> str:
    """Mean (std) of all landmarks of all cases."""
    values = np.concatenate([case[what] for case in found]) if found else np.array([])
    return f"{values.mean():.2f} ({values.std():.2f})" if len(values) else "-"


def table(results: dict[str, dict[str, list[dict[str, Any]]]], sets: list[str]) -> list[str]:
    """results: cases by set by row."""
    first = next(iter(results.values()))
    counts = {which: len(first[which]) for which in sets}
    lines = [
        f"{'TRE, mm':<24}"
        + "".join(f" {f'{SETS[which]}, n={counts[which]}':>15} {'snapped':>15}" for which in sets)
        + f" {'s':>7} {'folds':>8}"
    ]
    lines.append(f"{'initial':<24}" + "".join(f" {pooled(first[which], 'initial'):>15} {'':>15}" for which in sets))
    for row, by_set in results.items():
        cases = [case for which in sets for case in by_set[which]]
        figures = "".join(f" {pooled(by_set[which], 'continuous'):>15} {pooled(by_set[which], 'snapped'):>15}" for which in sets)
        seconds, folds = np.mean([case["seconds"] for case in cases]), np.mean([case["folds"] for case in cases])
        lines.append(f"{row:<24}{figures} {seconds:>7.1f} {100 * folds:>7.3f}%")
    lines += [f"{row:<24}" + "".join(f" {by_set[which]:>15} {'':>15}" for which in sets) for row, by_set in PUBLISHED.items()]
    lines.append("")
    for row, by_set in results.items():
        lines.append(f"{row}, by case, continuous / snapped:")
        lines += [
            f"  {c['case']:<10} {np.mean(c['continuous']):6.2f} / {np.mean(c['snapped']):5.2f}" for which in sets for c in by_set[which]
        ]
    return lines


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", choices=[[], *SETS], help="4dct, copd (default: those of which there are files)")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of DIR-Lab's files")
    parser.add_argument("--cases", type=int, nargs="+", metavar="N", help="1 to 10 (default: those that are there)")
    parser.add_argument("--fixed", choices=("inhale", "exhale"), default="inhale", help="the fixed scan's phase (default: inhale)")
    parser.add_argument("--masks", type=Path, metavar="MASKS", help="folder of lung masks, as named above")
    parser.add_argument("--paper", action="store_true", help="one level of displacement embedding and nothing after it")
    parser.add_argument(
        "--model", metavar="WEIGHTS", help="a row more: this network, as in regkit register (with --paper nothing after it)"
    )
    parser.add_argument("--preset", metavar="P", help="default: ct-lung")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML whose keys replace fields of the preset, as in regkit register")
    parser.add_argument("--device", default="auto", metavar="D", help="as in regkit register")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes every landmark's errors")
    parser.add_argument("--quiet", action="store_true", help="the table only")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> tuple[dict[str, dict[str, list[dict[str, Any]]]], list[str]]:
    """Errors by row, set and case; and the sets."""
    from regkit.data.dirlab import available, read_dirlab

    there = {which: available(args.data, which) for which in SETS}
    sets = args.sets or [which for which in SETS if there[which]]
    chosen = {which: args.cases or there[which] for which in sets}
    if not any(chosen.values()):
        raise InputError(f"{args.data}: no scans of DIR-Lab below it; regkit.data.dirlab says how they are named")
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row, how in methods(args).items():
        results[row] = {which: [] for which in sets}
        for which, numbers in chosen.items():
            for number in numbers:
                found = errors(read_dirlab(args.data, which, number, args.fixed), how, args)
                results[row][which].append(found)
                if not args.quiet:
                    print(
                        f"{row}, {found['case']}: {np.mean(found['continuous']):.2f} mm, {found['seconds']:.1f} s",
                        file=sys.stderr,
                        flush=True,
                    )
    return results, sets


def main(argv: list[str] | None = None) -> int:
    """Prints the table; 0 when done, otherwise regkit's exit code."""
    args = parse(argv)
    try:
        results, sets = run(args)
        if args.json is not None:
            from regkit.geometry import atomic_path

            with atomic_path(args.json) as draft:
                draft.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except RegkitError as error:
        print(f"evaluate_dirlab: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(table(results, sets)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
