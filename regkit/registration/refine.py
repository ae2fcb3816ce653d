"""Instance optimisation: a dense displacement (or velocity) field by Adam, coarse to fine; or by Demons (demons.py) on the same levels.

Each level minimises  (1 - lncc(moving(x + u), fixed))  or the squared MIND difference,  + smoothness * diffusion_energy(u),  in voxels of
its own grid. Only what both scans show counts: a weight is 0 outside the masks and where x + u leaves the moving scan.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from regkit import ops
from regkit.features.gradient import gradient
from regkit.geometry import Affine, Grid
from regkit.registration.adam import Adam
from regkit.registration.config import Config, RefineStage
from regkit.registration.demons import demons_update
from regkit.registration.prepare import Scan, coverage, level_grid, on_grid
from regkit.registration.progress import Progress
from regkit.registration.replay import Replayed
from regkit.registration.smoothing import smoothed

WEIGHT_EVERY = 10  # iterations between updates of the weight
SQUARINGS = 6


def resize(u: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A displacement on another grid over the same box; voxel values follow the voxel size."""
    if tuple(u.shape[2:]) == tuple(shape):
        return u
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    scale = torch.tensor([new / old for new, old in zip(shape, u.shape[2:])], device=u.device).reshape(1, -1, *[1] * len(shape))
    return F.interpolate(u, size=tuple(shape), mode=mode, align_corners=False) * scale


def exponential(velocity: torch.Tensor) -> torch.Tensor:
    """The displacement of a stationary velocity field after unit time, by scaling and squaring."""
    return ops.integrate_velocity(velocity, steps=SQUARINGS)


def refine(
    fixed: Scan, moving: Scan, grid: Grid, affine: Affine, start: torch.Tensor | None, config: Config, progress: Progress
) -> tuple[torch.Tensor, dict[str, list[float]]]:
    """The displacement (1, D, *grid.shape) in voxels of the working grid, from there to the moving scan brought onto it by `affine`;
    and loss curves by level."""
    stage = config.refine
    field = torch.zeros(1, grid.ndim, *grid.shape, device=fixed.device) if start is None else start
    curves: dict[str, list[float]] = {}
    optimise = _by_demons if stage.method == "demons" else _by_adam
    for n, (shrink, iterations) in enumerate(zip(stage.shrink, stage.iterations)):
        level = level_grid(grid, shrink)
        losses = torch.empty(iterations, device=fixed.device)  # read now and then: a GPU must not be waited for at every step
        before, total = sum(stage.iterations[:n]), sum(stage.iterations)

        def tell(i: int) -> None:
            if (i + 1) % WEIGHT_EVERY == 0 or i + 1 == iterations:
                progress("refine", (before + i + 1) / total, f"level {n + 1}, loss {float(losses[i]):.4f}")

        field = optimise(_Problem(fixed, moving, level, affine, config, n), resize(field, level.shape), stage, n, losses, tell)
        curves[f"level {n + 1}"] = losses.tolist()
    field = exponential(field) if stage.diffeomorphic else field
    return resize(field, grid.shape), curves


def _by_adam(
    problem: "_Problem", start: torch.Tensor, stage: RefineStage, level: int, losses: torch.Tensor, tell: Callable[[int], None]
) -> torch.Tensor:
    """The field after len(losses) steps of Adam; fills the losses, and tells of each step."""
    parameters = start.clone().requires_grad_()
    step = Replayed(_descent(problem, parameters, stage.step[level], stage.smoothing), start.device)
    for i in range(len(losses)):
        if i % WEIGHT_EVERY == 0:
            problem.update_weight(smoothed(parameters.detach(), stage.smoothing))
        losses[i] = step()
        tell(i)
    return smoothed(parameters.detach(), stage.smoothing)


def _by_demons(
    problem: "_Problem", start: torch.Tensor, stage: RefineStage, level: int, losses: torch.Tensor, tell: Callable[[int], None]
) -> torch.Tensor:
    """The same by Demons."""
    field, slope = start, gradient(problem.fixed)
    with torch.no_grad():
        for i in range(len(losses)):
            if i % WEIGHT_EVERY == 0:
                problem.update_weight(field)
            images = problem.fixed, problem.moving, slope
            field, losses[i] = demons_update(*images, field, problem.weight, step=stage.step[level], smoothing=stage.smoothing)
            tell(i)
    return field


def _descent(problem: "_Problem", parameters: torch.Tensor, step: float, smoothing: int) -> Callable[[], torch.Tensor]:
    """One step of Adam on the parameters; returns the loss before it."""
    optimiser = Adam(parameters, lr=step, betas=(0.9, 0.99), fused=True)

    def descend() -> torch.Tensor:
        optimiser.zero_grad()
        loss = problem.loss(smoothed(parameters, smoothing))
        loss.backward()
        optimiser.step()
        return loss.detach()

    return descend


class _Problem:
    """The images of one level and their loss."""

    def __init__(self, fixed: Scan, moving: Scan, grid: Grid, affine: Affine, config: Config, level: int):
        stage = config.refine
        self.fixed, self.moving = on_grid(fixed, grid), on_grid(moving, grid, affine)
        self.mind, self.diffeomorphic = stage.similarity == "mind", stage.diffeomorphic
        if self.mind:
            self.fixed, self.moving = (ops.mind_ssc(x, dtype=torch.float16) for x in (self.fixed, self.moving))
        weigh = config.use_masks == "weight"
        self.fixed_weight, self.moving_weight = coverage(fixed, grid, None, weigh), coverage(moving, grid, affine, weigh)
        # One tensor that is written to anew: what is recorded of a step reads it where it was.
        self.weight = self.fixed_weight if self.moving_weight is None else torch.ones(1, 1, *grid.shape, device=self.fixed.device)
        self.window, self.smoothness = stage.window[level], stage.smoothness[level]
        self.eps = stage.noise**2 * self.window**grid.ndim

    def update_weight(self, field: torch.Tensor) -> None:
        if self.moving_weight is None:
            return
        u = exponential(field) if self.diffeomorphic else field
        seen = ops.warp(self.moving_weight, u, mode="nearest", padding="border")
        alone = torch.ones_like(seen) if self.fixed_weight is None else self.fixed_weight
        # Nothing seen twice: only the fixed scan can pull the field back.
        both = seen * alone
        self.weight.copy_(torch.where(both.any(), both, alone))

    def loss(self, field: torch.Tensor) -> torch.Tensor:
        u = exponential(field) if self.diffeomorphic else field
        if self.mind:
            similarity = ops.warp_ssd(self.fixed, self.moving, u, weight=self.weight, padding="border")
        else:
            options = {"window": self.window, "weight": self.weight, "padding": "border", "eps": self.eps}
            similarity = 1 - ops.warp_lncc(self.fixed, self.moving, u, **options)
        return similarity + self.smoothness * ops.diffusion_energy(field)
