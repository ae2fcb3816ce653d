"""train(): one loop for all networks. It steps through a task's stages, saves all of its state now and then, and goes on from there.

A step's samples are numbered through (step, batch, process, place in the batch), and a sample depends on its number alone. So a training
that goes on from a checkpoint sees what the unbroken one would have seen, and two processes see what one with the batches of both would.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler

from regkit.errors import TrainingError, UsageError
from regkit.models.weights import save_model
from regkit.training.checkpoints import Checkpoints, State, generators, reason, restore_generators
from regkit.training.config import Loop
from regkit.training.distributed import World
from regkit.training.logs import Log, Telling, numbers, processes
from regkit.training.run import BEST, LAST
from regkit.training.schedule import learning_rate
from regkit.training.task import Task

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seeds python, numpy and torch, before the network is made; deterministic: torch takes deterministic algorithms from here on, and
    raises where it has none."""
    import random

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True)


def train(task: Task, options: Loop, run: Path, world: World, device: torch.device, *, resume: bool = False, quiet: bool = False) -> State:
    """Trains to the end of the last stage and returns the final state; the run's directory then holds the weights (see run.py).

    resume: go on from the newest checkpoint, if there is one.
    Raises TrainingError when the loss is no longer a number, or when a checkpoint cannot be written. What was saved stays.
    """
    return _Training(task, options, run, world, device, resume, quiet).run()


class _Training:
    def __init__(self, task: Task, options: Loop, run: Path, world: World, device: torch.device, resume: bool, quiet: bool):
        self.task, self.options, self.folder, self.world, self.device = task, options, run, world, device
        self.dtype = PRECISIONS[_precision(options.precision, device)]
        self.checkpoints = Checkpoints(run, options.keep)
        if device.type == "cuda":  # all samples have one shape: it pays to try which convolution is fastest
            torch.backends.cudnn.benchmark = not options.deterministic
        # Convolutions are faster with channels last; the weights stay the same numbers.
        layout = {5: torch.channels_last_3d, 4: torch.channels_last}
        for parameter in task.network.to(device).parameters():
            if parameter.dim() in layout:
                parameter.data = parameter.data.contiguous(memory_format=layout[parameter.dim()])
        newest = world.share(self.checkpoints.newest() if resume else None)
        self.state = State(processes=world.size) if newest is None else self.checkpoints.load(newest)
        if self.state.processes != world.size:
            raise UsageError(f"{run} was begun with {self.state.processes} processes, and these are {world.size}; start as many")
        self.total = sum(stage.steps for stage in task.stages)
        self.log = Log(run, self.state.step) if world.leads else None
        self.telling = Telling(self.total, self.state.step, quiet or not world.leads)
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "float16")
        if newest is not None:
            task.network.load_state_dict(self.state.network)
            self.scaler.load_state_dict(self.state.scaler)
            self.telling.say(f"going on from {newest.name}")

    def run(self) -> State:
        try:
            if self.log:
                self.log.write("start", self.state.step, processes())
            while self.state.stage < len(self.task.stages):
                self._stage()
                self.state = replace(self.state, stage=self.state.stage + 1, stage_step=0, optimiser={}, best=None)
            if self.world.leads:
                save_weights(self.folder / LAST, self.task, self.state.metrics)
            self.telling.say(f"done: {self.folder / BEST} has the best weights, {self.folder / LAST} the last")
            return self.state
        finally:
            self.telling.close()
            if self.log:
                self.log.close()

    def _stage(self) -> None:
        options, state, stage = self.options, self.state, self.task.stages[self.state.stage]
        parameters = list(self.task.trained(state.stage))
        optimiser = torch.optim.Adam(parameters, lr=options.learning_rate, fused=True)
        if state.optimiser:
            optimiser.load_state_dict(state.optimiser)
        if state.generators:
            restore_generators(state.generators[self.world.rank])
            state.generators = []
        batches, sums = iter(self._loader(stage.steps - state.stage_step)), Sums()
        model, resting = None, None
        while state.stage_step < stage.steps:
            rests = {id(p) for p in self.task.frozen(state.stage, state.stage_step)}
            if rests != resting:
                model, resting = self._model(parameters, rests), rests
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(options, state.stage_step, stage.steps)
            self._step(model, optimiser, batches, sums)
            state.step, state.stage_step = state.step + 1, state.stage_step + 1
            self._afterwards(stage.name, stage.steps, optimiser, sums)

    def _loader(self, steps: int) -> DataLoader:
        workers = self.options.workers
        return DataLoader(
            self.task.dataset,
            batch_sampler=_Numbers(self.state.step, steps, self.options, self.world),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # the loader draws a seed for its workers: not from the training's generator
        )

    def _model(self, parameters: list[nn.Parameter], rests: set[int]) -> nn.Module:
        """The loss of the network, of which the parameters that don't rest take gradients. DistributedDataParallel looks at that once."""
        for parameter in self.task.network.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        for parameter in parameters:
            parameter.requires_grad_(id(parameter) not in rests)
        model = _Losses(self.task)
        if self.world.size == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)

    def _step(self, model: nn.Module, optimiser: torch.optim.Optimizer, batches: Iterator, sums: "Sums") -> None:
        options, done = self.options, {}
        optimiser.zero_grad(set_to_none=True)
        for n in range(options.accumulate):
            batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in next(batches).items()}
            with nullcontext() if self.world.size == 1 or n == options.accumulate - 1 else model.no_sync():
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                    terms = model(batch, self.state.stage)
                loss = sum(terms.values())
                self.scaler.scale(loss / options.accumulate).backward()
            for name, term in {**terms, "loss": loss}.items():
                done[name] = done.get(name, 0) + term.detach() / options.accumulate
        sums.add(done)
        if self.device.type == "cpu":  # nothing waits there: stop before the weights are spoilt
            self._check({name: float(term) for name, term in done.items()})
        if options.clip is not None:
            self.scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], options.clip)
        self.scaler.step(optimiser)
        self.scaler.update()

    def _afterwards(self, name: str, steps: int, optimiser: torch.optim.Optimizer, sums: "Sums") -> None:
        """Logs, validates and saves, each when its time has come."""
        options, state, ends = self.options, self.state, self.state.stage_step == steps
        saves = ends or state.step % options.save_every == 0
        if saves or state.step % options.log_every == 0:  # before a save too: the log then goes on as unbroken as the weights
            means = sums.means()
            self._check(means)
            if self.log:
                rate = optimiser.param_groups[0]["lr"]
                self.log.write("train", state.step, {**means, "stage": state.stage + 1, "learning_rate": rate})
            self.telling.step(name, state.step, numbers(means))
            state.metrics = {**state.metrics, "loss": means["loss"]}
        is_best = False
        if ends or state.step % options.validate_every == 0:
            is_best = self._validate(name)
        if saves or is_best:
            self._save(optimiser, is_best, ends)

    def _validate(self, name: str) -> bool:
        """Scores the network; whether this is the stage's best."""
        task, state = self.task, self.state
        task.network.eval()
        with torch.no_grad():
            score = task.validate(state.stage, self.world, self.device)
        task.network.train()
        state.metrics = {**state.metrics, **score.metrics}
        if self.log:
            self.log.write("validation", state.step, {**score.metrics, "stage": state.stage + 1})
            self.log.pictures(state.step, score.pictures)
        self.telling.say(f"{name}, step {state.step}: {numbers(score.metrics)}")
        metric, more = task.best
        value = state.metrics.get(metric, math.nan)
        if math.isnan(value) or (state.best is not None and (value <= state.best if more else value >= state.best)):
            return False
        state.best = value
        return True

    def _save(self, optimiser: torch.optim.Optimizer, is_best: bool, ends: bool) -> None:
        """A checkpoint, and the weights where they are the best."""
        state, every = self.state, self.world.gather(generators())
        failed = None
        if self.world.leads:
            network = {name: tensor.detach().cpu().contiguous() for name, tensor in self.task.network.state_dict().items()}
            spoilt = next((name for name, tensor in network.items() if not bool(tensor.isfinite().all())), None)
            saved = replace(state, network=network, scaler=self.scaler.state_dict(), generators=every, optimiser=optimiser.state_dict())
            if ends:  # the next stage begins with an optimiser, and a best, of its own
                saved = replace(saved, stage=state.stage + 1, stage_step=0, optimiser={}, best=None)
            try:
                if spoilt:  # by another process's loss, or by a gradient
                    raise self._stopped(f"the weights {spoilt} are no longer numbers at step {state.step}")
                self.checkpoints.save(saved, is_best=is_best)
                if is_best and state.stage == len(self.task.stages) - 1:  # before, parts of the network may not have been trained at all
                    save_weights(self.folder / BEST, self.task, state.metrics)
            except TrainingError as error:
                failed = error
        failed = self.world.share(failed)  # or the other processes would wait for the leader for ever
        if failed is not None:
            raise failed

    def _check(self, means: dict[str, float]) -> None:
        """Raises TrainingError where a term of the loss is not a finite number."""
        wrong = [f"{name} is {value}" for name, value in means.items() if not math.isfinite(value)]
        if wrong:
            raise self._stopped(f"the loss is no longer a number at step {self.state.step + 1} ({', '.join(wrong)})")

    def _stopped(self, why: str) -> TrainingError:
        newest = self.checkpoints.newest()
        left = f"the last good checkpoint is {newest}" if newest else "no checkpoint was written yet"
        return TrainingError(f"{why}; {left}; take a smaller learning_rate or clip the gradient, and check the data with regkit data")


def _precision(wanted: str, device: torch.device) -> str:
    if wanted != "auto":
        return wanted
    native = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"


class _Losses(nn.Module):
    """The task's loss as a module's forward, which is what DistributedDataParallel wraps."""

    def __init__(self, task: Task):
        super().__init__()
        self.network, self.task = task.network, task

    def forward(self, batch: dict[str, torch.Tensor], stage: int) -> dict[str, torch.Tensor]:
        return self.task.loss(batch, stage)


class Sums:
    """Sums of the loss's terms since they were last asked for, on the device, so that nothing waits for it."""

    def __init__(self):
        self.terms: dict[str, torch.Tensor] = {}
        self.steps = 0

    def add(self, terms: dict[str, torch.Tensor]) -> None:
        """The terms of one step."""
        self.steps += 1
        for name, term in terms.items():
            self.terms[name] = self.terms[name] + term if name in self.terms else term

    def means(self) -> dict[str, float]:
        """The mean over those steps; begins anew."""
        means = {name: float(term) / self.steps for name, term in self.terms.items()}
        self.terms, self.steps = {}, 0
        return means


class _Numbers(Sampler):
    """The numbers of the samples that this process takes, in batches, from a step on."""

    def __init__(self, first: int, steps: int, options: Loop, world: World):
        self.first, self.steps, self.options, self.world = first, steps, options, world

    def __iter__(self) -> Iterator[list[int]]:
        size, every = self.options.batch, self.options.accumulate
        for step in range(self.first, self.first + self.steps):
            for part in range(every):
                start = ((step * every + part) * self.world.size + self.world.rank) * size
                yield list(range(start, start + size))

    def __len__(self) -> int:
        return self.steps * self.options.accumulate


def save_weights(path: Path, task: Task, metrics: dict[str, float]) -> None:
    """The network's weights with their card. Raises TrainingError when they cannot be written."""
    try:
        save_model(path, task.network, task.card(metrics))
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {reason(error)}; make room and go on with --resume") from None
