"""register(): two scans in, a Result out. Reads, aligns, finds the motion, refines it, inverts, measures.

The motion comes from one of two sources: the displacement embedding on the working grid (by PCA and diffusion, or by a network on its
similarity maps), or a trained network on its own frame. What follows is the same for both.
"""

import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from regkit.errors import InputError, UsageError
from regkit.geometry import Affine, Grid, Image, as_image, check_mask, check_scan, resample
from regkit.registration.affine import register_affine
from regkit.registration.config import PRESETS, Config, with_model
from regkit.registration.descriptors import descriptors, provenance
from regkit.registration.device import computing_on, name_of, peak_gpu_memory_mb, resolve, wait
from regkit.registration.embedding import TooFewKeypoints, embed
from regkit.registration.field import transforms
from regkit.registration.folds import remove_folds
from regkit.registration.measure import measure, probes
from regkit.registration.motion import Motion
from regkit.registration.prepare import Scan, coverage, normalise, on_grid, working_grid
from regkit.registration.progress import Progress, silent
from regkit.registration.provenance import describe_input, versions
from regkit.registration.refine import refine as refine_field
from regkit.registration.result import Record, Result

if TYPE_CHECKING:
    from regkit.models.keypoint_model import KeypointModel
    from regkit.models.predict import Predictor, View

UNSEEN = 0.001  # share of the foreground outside a network's frame that is worth a warning


def register(
    fixed: Any,
    moving: Any,
    *,
    preset: str = "generic",
    config: Config | None = None,
    model: str | os.PathLike[str] | None = None,
    refine: bool | None = None,
    smoothness: float | None = None,
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
    preset: a name of PRESETS; config: a Config, in its place.
    model: weights file of a trained network, or the name of one of regkit's own, to find the motion in place of the displacement embedding;
    by default `config.model`'s. What the network is given follows its model card; the preset's options hold for an affine before it, for
    refinement after it, and for the measures. refine: whether to refine the network's displacement (it is kept as it is by default).
    smoothness: 0 to 1, for networks that leave the choice.
    fixed_mask, moving_mask: label maps on any grid, not 0 inside; a network does not see them.
    device: "auto" (a GPU where torch can use one, else the CPU), "cpu", "cuda" or "cuda:1".
    threads: CPU threads, torch's number by default.
    seed: kept in the record; the pipeline draws no random numbers.
    header: "sform" or "qform" decides for NIfTI files where the two disagree ("auto" refuses them).
    progress: called as progress(stage, fraction, message).

    On a CPU the same input, machine and threads give the same output, bit for bit; on a GPU up to rounding.

    Raises UsageError for the call, InputError for a scan or mask that cannot be used.
    """
    if model is not None and not isinstance(model, (str, os.PathLike)):
        raise UsageError(f"model must be a weights file or a name, but came as {type(model).__name__}; save networks by save_model")
    config = with_model(_config(preset, config), None if model is None else os.fspath(model), refine, smoothness)
    where = resolve(device)
    started, progress = time.perf_counter(), progress or silent
    record = Record(seed=seed, device=name_of(where), versions=versions())
    sources = {"fixed": fixed, "moving": moving, "fixed mask": fixed_mask, "moving mask": moving_mask}
    with _threads(threads), torch.no_grad(), computing_on(where):
        record.threads = torch.get_num_threads()
        with _stage("read", record, progress, where):
            predictor, keypoint_model = _load(config, record, where)
            without = {name for name, source in sources.items() if source is None and name.endswith("mask")}
            images = {name: None if name in without else as_image(source, name, header=header) for name, source in sources.items()}
            record.inputs = {name: describe_input(sources[name], image) for name, image in images.items() if image is not None}
            scans = _check(images)
            if config.embedding.enabled and config.model.source is None:  # what can't be used is told at once
                descriptors(config.embedding, scans[0].ndim, where)
                record.features = provenance(config.embedding)
        result = _run(images, scans, config, predictor, keypoint_model, record, progress, where)
        record.peak_gpu_memory_mb = peak_gpu_memory_mb(where)
    record.seconds["total"] = time.perf_counter() - started
    record.peak_memory_mb = _peak_memory_mb()
    return result


def _run(
    images: dict[str, Image | None],
    scans: list[Image],
    config: Config,
    predictor: "Predictor | None",
    keypoint_model: "KeypointModel | None",
    record: Record,
    progress: Progress,
    device: torch.device,
) -> Result:
    def stage(name: str):
        return _stage(name, record, progress, device)

    with stage("prepare"):
        fixed, moving = (
            Scan(normalise(scan, config.intensity), images[f"{name} mask"], device) for name, scan in zip(("fixed", "moving"), scans)
        )
        grid = working_grid(fixed, config)
        record.notes.append(f"working grid {_describe(grid)}")
        view = None if predictor is None else predictor.view(*scans)
    with stage("affine"):
        if predictor is None or predictor.input.align == "affine":
            affine = _affine(fixed, moving, grid, config, record, progress)
        else:
            affine = predictor.align(view)
            record.notes.append(f"start: {predictor.input.align}")
    if predictor is not None:
        with stage("network"):
            motion = _predict(predictor, view, affine, fixed, record)
    elif config.embedding.enabled or keypoint_model is not None:
        with stage("embedding"):
            seen, frame = (fixed, moving), grid
            if keypoint_model is not None:
                seen, frame = keypoint_model.view(fixed, moving, scans, config)
                record.notes.append(f"network: grid {_describe(frame)}")
            motion = _embed(seen, frame, affine, config, keypoint_model, record)
    else:
        motion = Motion.still(affine, grid, device)
    unfold = config.model.remove_folds
    if config.model.source is None or config.model.refine:
        unfold = config.refine.remove_folds
        with stage("refine"):
            start = motion if motion.grid == grid else motion.extended(scans[0].grid).on(grid)
            with torch.enable_grad():
                displacement, curves = refine_field(fixed, moving, grid, start.affine, start.displacement, config, progress)
            motion = replace(start, displacement=displacement)
            record.curves |= {f"refine, {level}": values for level, values in curves.items()}
    with stage("invert"):
        if unfold:
            motion = _unfolded(motion, record)
        motion = motion.extended(scans[0].grid)
        if unfold:  # the folds of the seam
            motion = _unfolded(motion, None)
        forward, backward = transforms(motion.displacement, motion.grid, motion.affine)
    with stage("measure"):
        moved = resample(scans[1], scans[0].grid, forward, labels=False, device=device)
        shown = motion if predictor is None else motion.on(grid)  # a frame may be mostly padding
        record.metrics = measure(fixed, moving, forward, backward, affine, shown.displacement, shown.grid, config.affine.window)
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


def _load(config: Config, record: Record, device: torch.device) -> tuple["Predictor | None", "KeypointModel | None"]:
    """The network of the configuration, if it names one: one that takes the scans, or similarities of their keypoints."""
    if config.model.source is None:
        return None, None
    from regkit.models.keypoint_model import KeypointModel, on_keypoints  # here: the networks' inputs are prepared by this package
    from regkit.models.predict import Predictor

    model = (KeypointModel if on_keypoints(config.model) else Predictor).load(config.model, device)
    record.model = dict(model.about)
    return (None, model) if isinstance(model, KeypointModel) else (model, None)


def _affine(fixed: Scan, moving: Scan, grid: Grid, config: Config, record: Record, progress: Progress) -> Affine:
    if fixed.image.grid.overlap(moving.image.grid) == 0:
        record.notes.append("the scans do not overlap in space; started from their centres")
    with torch.enable_grad():
        affine, start, curve = register_affine(fixed, moving, grid, config, progress)
    record.curves |= _by_level(curve, config)
    record.notes.append(f"start: {start}")
    return affine


def _embed(scans: tuple[Scan, Scan], grid: Grid, affine: Affine, config: Config, model: "KeypointModel | None", record: Record) -> Motion:
    """The motion by the displacement embedding; the affine alone for scans too small or smooth for it."""
    fixed, moving = scans
    pair = on_grid(fixed, grid), on_grid(moving, grid, affine)
    mask = None if fixed.mask is None else coverage(fixed, grid, None, True)
    try:
        displacement, facts = embed(*pair, mask, config.embedding, model)
    except TooFewKeypoints as few:
        record.warnings.append(f"no displacement embedding: {few}")
        return Motion.still(affine, grid, fixed.device)
    record.notes.append(
        "embedding: {keypoints} keypoints, displacement median {median_voxels:.1f}, largest {largest_voxels:.1f} voxels".format(**facts)
    )
    return Motion(affine, grid, displacement)


def _predict(predictor: "Predictor", view: "View", affine: Affine, fixed: Scan, record: Record) -> Motion:
    """The motion by a trained network."""
    motion = predictor.predict(view, affine)
    frame = _describe(view.frame)
    length = motion.displacement.norm(dim=1)
    record.notes.append(f"network: frame {frame}, displacement median {length.median():.1f}, largest {length.max():.1f} voxels")
    outside = 1 - float(view.frame.contains(fixed.image.grid.to_world(probes(fixed.foreground()))).mean())
    if outside > UNSEEN:
        record.warnings.append(
            f"the network does not see {100 * outside:.3g} % of the fixed scan's foreground, which lies outside its frame ({frame}); "
            "there its displacement fades out"
        )
    return motion


def _unfolded(motion: Motion, record: Record | None) -> Motion:
    displacement, folded = remove_folds(motion.displacement)
    if folded and record is not None:
        record.notes.append(f"{folded} folded voxels smoothed out")
    return replace(motion, displacement=displacement)


def _describe(grid: Grid) -> str:
    """ "64 x 64 x 48 of 1 mm", or of every axis's spacing where they differ."""
    steps = [f"{step:.3g}" for step in grid.spacing]
    return f"{' x '.join(map(str, grid.shape))} of {steps[0] if len(set(steps)) == 1 else ' x '.join(steps)} mm"


def _by_level(curve: list[float], config: Config) -> dict[str, list[float]]:
    """The affine's losses, level by level: they are measured on different grids."""
    if not config.affine.enabled:
        return {}
    ends = np.cumsum(config.affine.iterations)[:-1]
    return {f"affine, level {n + 1}": part.tolist() for n, part in enumerate(np.split(np.array(curve), ends))}


def _check(images: dict[str, Image | None]) -> list[Image]:
    fixed, moving = images["fixed"], images["moving"]
    for image, name in ((fixed, "fixed"), (moving, "moving")):
        check_scan(image, name)
    if fixed.ndim != moving.ndim:
        raise InputError(f"fixed is {fixed.ndim}-D and moving {moving.ndim}-D; give two scans of one kind")
    for image, name in ((fixed, "fixed"), (moving, "moving")):
        if images[f"{name} mask"] is not None:
            check_mask(images[f"{name} mask"], image, f"{name} mask")
    return [fixed, moving]


def _config(preset: str, config: Config | None) -> Config:
    if config is not None:
        return config
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    return PRESETS[preset]


@contextmanager
def _stage(name: str, record: Record, progress: Progress, device: torch.device) -> Iterator[None]:
    started = time.perf_counter()
    progress(name, 0.0)
    yield
    wait(device)
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
