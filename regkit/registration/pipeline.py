"""register(): two scans in, a Result out. Reads, initialises, embeds, refines, inverts, measures."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from regkit.errors import InputError, UsageError
from regkit.geometry import Image, as_image, check_mask, check_scan, resample
from regkit.registration.affine import register_affine
from regkit.registration.config import PRESETS, Config
from regkit.registration.embedding import TooFewKeypoints, embed
from regkit.registration.field import extend, transforms
from regkit.registration.folds import remove_folds
from regkit.registration.measure import measure
from regkit.registration.prepare import Scan, coverage, normalise, on_grid, working_grid
from regkit.registration.progress import Progress, silent
from regkit.registration.provenance import describe_input, versions
from regkit.registration.refine import refine
from regkit.registration.result import Record, Result


def register(
    fixed: Any,
    moving: Any,
    *,
    preset: str = "generic",
    config: Config | None = None,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    header: str = "auto",
    progress: Progress | None = None,
) -> Result:
    """Aligns the moving scan with the fixed one.

    fixed, moving: a path (NIfTI, MHA, NRRD, DICOM folder; PNG, TIFF, JPEG in 2-D), an Image, (array, affine), a nibabel or SimpleITK image,
    or an array. The scans may differ in grid, spacing and orientation; they need not overlap in space.
    preset: a name of PRESETS; config: a Config, in its place. fixed_mask, moving_mask: label maps on any grid, not 0 inside.
    device: "auto" or "cpu". threads: CPU threads, torch's number by default.
    seed: kept in the record; the pipeline draws no random numbers.
    header: "sform" or "qform" decides for NIfTI files where the two disagree ("auto" refuses them).
    progress: called as progress(stage, fraction, message).

    The same input, machine and threads give the same output, bit for bit.

    Raises UsageError for the call, InputError for a scan or mask that cannot be used.
    """
    config = _config(preset, config)
    if device not in ("auto", "cpu"):
        raise UsageError(f"device {device!r}: this version computes on the CPU; take auto or cpu")
    started, progress = time.perf_counter(), progress or silent
    record = Record(seed=seed, device="cpu", versions=versions())
    sources = {"fixed": fixed, "moving": moving, "fixed mask": fixed_mask, "moving mask": moving_mask}
    with _threads(threads), torch.no_grad():
        record.threads = torch.get_num_threads()
        with _stage("read", record, progress):
            without = {name for name, source in sources.items() if source is None and name.endswith("mask")}
            images = {name: None if name in without else as_image(source, name, header=header) for name, source in sources.items()}
            record.inputs = {name: describe_input(sources[name], image) for name, image in images.items() if image is not None}
            scans = _check(images, record)
        result = _run(images, scans, config, record, progress)
    record.seconds["total"] = time.perf_counter() - started
    record.peak_memory_mb = _peak_memory_mb()
    return result


def _run(images: dict[str, Image | None], scans: list[Image], config: Config, record: Record, progress: Progress) -> Result:
    with _stage("prepare", record, progress):
        fixed, moving = (Scan(normalise(scan, config.intensity), images[f"{name} mask"]) for name, scan in zip(("fixed", "moving"), scans))
        grid = working_grid(fixed, config)
        record.notes.append(f"working grid {' x '.join(map(str, grid.shape))} of {grid.spacing[0]:.3g} mm")
    with _stage("affine", record, progress):
        with torch.enable_grad():
            affine, start, curve = register_affine(fixed, moving, grid, config, progress)
        record.curves |= _by_level(curve, config)
        record.notes.append(f"start: {start}")
    displacement = None
    if config.embedding.enabled:
        with _stage("embedding", record, progress):
            pair = on_grid(fixed.image, grid), on_grid(moving.image, grid, affine)
            mask = None if fixed.mask is None else coverage(fixed, grid, None, True)
            try:
                displacement, facts = embed(*pair, mask, config.embedding)
                record.notes.append(
                    "embedding: {keypoints} keypoints, displacement median {median_voxels:.1f}, largest {largest_voxels:.1f} voxels".format(
                        **facts
                    )
                )
            except TooFewKeypoints as few:  # small or smooth scans: refinement starts from the affine
                record.warnings.append(f"no displacement embedding: {few}")
    with _stage("refine", record, progress):
        with torch.enable_grad():
            displacement, curves = refine(fixed, moving, grid, affine, displacement, config, progress)
        record.curves |= {f"refine, {level}": values for level, values in curves.items()}
    with _stage("invert", record, progress):
        if config.refine.remove_folds:
            displacement, folded = remove_folds(displacement)
            if folded:
                record.notes.append(f"{folded} folded voxels smoothed out")
        displacement, wide = extend(displacement, grid, fixed.image.grid)
        if config.refine.remove_folds:  # those of the seam
            displacement, _ = remove_folds(displacement)
        forward, backward = transforms(displacement, wide, affine)
    with _stage("measure", record, progress):
        moved = resample(scans[1], scans[0].grid, forward, labels=False)
        record.metrics = measure(fixed, moving, forward, backward, affine, displacement, wide, config.affine.window)
        if record.metrics["jacobian"]["folds"] > 0:
            record.warnings.append(f"{100 * record.metrics['jacobian']['folds']:.3f} % of voxels are folded")
    return Result(
        scans[0],
        scans[1],
        Image(moved.data, moved.grid, "moved"),
        forward,
        backward,
        config,
        record,
        images["fixed mask"],
        images["moving mask"],
    )


def _by_level(curve: list[float], config: Config) -> dict[str, list[float]]:
    """The affine's losses, level by level: they are measured on different grids."""
    if not config.affine.enabled:
        return {}
    ends = np.cumsum(config.affine.iterations)[:-1]
    return {f"affine, level {n + 1}": part.tolist() for n, part in enumerate(np.split(np.array(curve), ends))}


def _check(images: dict[str, Image | None], record: Record) -> list[Image]:
    fixed, moving = images["fixed"], images["moving"]
    for image, name in ((fixed, "fixed"), (moving, "moving")):
        check_scan(image, name)
    if fixed.ndim != moving.ndim:
        raise InputError(f"fixed is {fixed.ndim}-D and moving {moving.ndim}-D; give two scans of one kind")
    for image, name in ((fixed, "fixed"), (moving, "moving")):
        if images[f"{name} mask"] is not None:
            check_mask(images[f"{name} mask"], image, f"{name} mask")
    overlap = fixed.grid.overlap(moving.grid)
    if overlap == 0:
        record.notes.append("the scans do not overlap in space; started from their centres")
    return [fixed, moving]


def _config(preset: str, config: Config | None) -> Config:
    if config is not None:
        return config
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    return PRESETS[preset]


@contextmanager
def _stage(name: str, record: Record, progress: Progress) -> Iterator[None]:
    started = time.perf_counter()
    progress(name, 0.0)
    yield
    record.seconds[name] = time.perf_counter() - started
    progress(name, 1.0)


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    try:
        torch.set_num_threads(threads or before)
        yield
    finally:
        torch.set_num_threads(before)


def _peak_memory_mb() -> float:
    """Of this process so far: ru_maxrss is in KiB on Linux, in bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
