"""From a configuration and a manifest to a finished training: what `regkit train` and the example scripts call."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from regkit.data.config import Datasets, datasets
from regkit.data.manifest import read_manifest
from regkit.errors import RegkitError, UsageError
from regkit.registration.progress import Progress, silent
from regkit.training.distributed import World, joined, pick_device
from regkit.training.loop import seed_everything, train
from regkit.training.run import begin_run, check_run
from regkit.training.task import Task
from regkit.training.trainings import TRAININGS, network_of

T = TypeVar("T")
CACHE = ".regkit-cache"


def start(
    kind: str,
    config: Any,
    manifest: Path,
    run: Path,
    *,
    resume: bool = False,
    cache: Path | None = None,
    quiet: bool = False,
    progress: Callable[[], AbstractContextManager[Progress]] = partial(nullcontext, silent),
) -> Task:
    """Trains a network of `kind` (a name of TRAININGS) in the directory `run`; see regkit.training.run for what is there afterwards.

    config: of the kind's own class. cache: where prepared scans are kept, by default `.regkit-cache` beside the manifest.
    resume: go on from the newest checkpoint. progress: makes what is told of the preparation of scans.
    Under torchrun every process calls this alike.
    Raises UsageError and InputError for what was given, TrainingError when the training can't go on.
    """
    device = pick_device(config.loop.device)
    with joined(device) as world:
        network_of(kind, config)  # options that it refuses are told before scans are prepared for hours
        cases = read_manifest(manifest)
        there = _led(world, lambda: check_run(run, config, manifest, resume))
        cache = manifest.absolute().parent / CACHE if cache is None else cache

        def prepare() -> Datasets:
            with progress() as told:
                data = datasets(cases, config.data, multiple=config.multiple, seed=config.loop.seed, cache_dir=cache, progress=told)
                if TRAININGS[kind].prepare is not None:
                    TRAININGS[kind].prepare(config, data, told)
                return data

        data = _led(world, prepare) or prepare()  # the leader fills the cache, and the others read it
        dims = len(data.train.shape)
        if config.network.dims != dims:
            raise UsageError(f"the scans are {dims}-D and network.dims is {config.network.dims}; set it in --config")
        seed_everything(config.loop.seed, config.loop.deterministic)
        task = TRAININGS[kind].task(config, data)
        if world.leads and not there:
            begin_run(run, config, manifest)
        if world.rank:  # the same weights everywhere, and from here on random numbers of its own
            torch.manual_seed(config.loop.seed + world.rank)
        train(task, config.loop, run, world, device, resume=resume, quiet=quiet)
        return task


def _led(world: World, work: Callable[[], T]) -> T | None:
    """The leader works, the others wait; its error is everyone's."""
    result, failed = None, None
    if world.leads:
        try:
            result = work()
        except RegkitError as error:
            failed = error
    failed = world.share(failed)
    if failed is not None:
        raise failed
    return result
