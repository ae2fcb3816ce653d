"""Initial alignment: several starts, ranked on a coarse grid, then 12 parameters (6 in 2-D) by gradient descent, coarse to fine.

The transform is T0 C (I + P) C^-1 with C the shift to the fixed scan's centre and T0 the start: rotation, scale and shear about the centre
of the patient move the image as little as they can, and one step size fits all entries of P once translations are counted in units of the
scan's radius.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from regkit import ops
from regkit.geometry import Affine, Grid
from regkit.registration.adam import Adam
from regkit.registration.config import Config
from regkit.registration.mutual import normalised_mutual_information
from regkit.registration.prepare import Scan, coverage, level_grid, on_grid
from regkit.registration.progress import Progress

SCREENED = 8  # iterations that every start gets before the best go on
KEPT = 2
WEIGHT_EVERY = 5  # iterations between updates of what both scans show


@dataclass(frozen=True)
class Start:
    name: str
    matrix: np.ndarray  # (D+1, D+1), fixed world to moving world


def mass_center(scan: Scan) -> np.ndarray:
    """World point: centre of the mask, or of the intensities above background."""
    data = scan.foreground() if scan.mask is not None else scan.image.data
    return scan.image.grid.to_world(np.asarray(ndimage.center_of_mass(data))[None])[0]


def starts(fixed: Scan, moving: Scan, choice: str) -> list[Start]:
    """Header, centres of the boxes and mass centres; around the latter, small rotations and scales."""
    dims = fixed.image.ndim
    header = Start("header", np.eye(dims + 1))
    if choice == "header":
        return [header]
    found = [header]
    masses = mass_center(fixed), mass_center(moving)
    for name, (a, b) in {"centres": (fixed.image.grid.center, moving.image.grid.center), "mass centres": masses}.items():
        found.append(Start(name, _about(np.eye(dims), a, b)))
    for rotation in _rotations(dims):
        found.append(Start("mass centres, turned", _about(rotation, *masses)))
    for scale in (0.85, 1.15):
        found.append(Start(f"mass centres, scaled {scale}", _about(scale * np.eye(dims), *masses)))
    return found


def _about(linear: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """x -> b + linear (x - a)."""
    matrix = np.eye(len(a) + 1)
    matrix[:-1, :-1] = linear
    matrix[:-1, -1] = b - linear @ a
    return matrix


def _rotations(dims: int, degrees: float = 15.0) -> list[np.ndarray]:
    if dims == 2:
        return [Rotation.from_euler("z", sign * degrees, degrees=True).as_matrix()[:2, :2] for sign in (-1, 1)]
    return [Rotation.from_euler(axis, sign * degrees, degrees=True).as_matrix() for axis, sign in product("xyz", (-1, 1))]


class _Level:
    """Fixed and moving scan at one resolution, and the loss of a world matrix. On the CPU always: some ten thousand voxels are computed
    before a GPU has been told to begin."""

    def __init__(self, fixed: Scan, moving: Scan, grid: Grid, config: Config):
        self.grid = grid
        spacing = float(np.mean(grid.spacing))
        self.moving_grid = moving.image.grid.with_spacing([max(spacing, s) for s in moving.image.grid.spacing])
        self.fixed, self.moving = on_grid(fixed, grid).cpu(), on_grid(moving, self.moving_grid).cpu()
        weigh = config.use_masks == "weight"
        self.weight = coverage(fixed, grid, None, weigh)
        self.weight = None if self.weight is None else self.weight.cpu()
        seen = None if moving.mask is None or not weigh else coverage(moving, self.moving_grid, None, True)
        self.moving_weight = torch.ones_like(self.moving) if seen is None else seen.cpu()
        self.shown = 1.0 if self.weight is None else float(self.weight.mean())
        self.to_index = torch.tensor(np.linalg.inv(self.moving_grid.affine))
        self.to_world = torch.tensor(self.grid.affine)
        index = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in grid.shape], indexing="ij")
        self.index = torch.from_numpy(np.stack(index)).reshape(grid.ndim, -1)
        self.window = config.affine.window
        self.eps = config.refine.noise**2 * self.window**grid.ndim
        self.mutual = config.refine.similarity == "mind"

    def displacement(self, matrix: torch.Tensor) -> torch.Tensor:
        """(1, D, *shape) voxels, from fixed grid index to moving grid index, of a world matrix."""
        dims = self.grid.ndim
        to_index = self.to_index @ matrix @ self.to_world
        change = (to_index - torch.eye(dims + 1, dtype=torch.float64)).float()
        return (change[:dims, :dims] @ self.index + change[:dims, dims:]).reshape(1, dims, *self.grid.shape)

    def update(self, u: torch.Tensor) -> None:
        """What both scans show under u: weights, and its share of what the fixed scan shows."""
        weight = ops.warp(self.moving_weight, u, mode="nearest")
        if self.weight is not None:
            weight *= self.weight
        self.seen = float(weight.mean()) / self.shown
        self.both = weight

    def loss(self, matrix: torch.Tensor, fresh: bool = True) -> torch.Tensor:
        """Dissimilarity where both scans show something; a start must not win by showing little of the moving scan."""
        u = self.displacement(matrix)
        if fresh:
            self.update(u.detach())
        if self.seen < 0.1:
            return 1.0 - self.seen + 0.0 * u.sum()
        moved = ops.warp(self.moving, u, padding="border")
        if self.mutual:
            return 1 - (normalised_mutual_information(moved, self.fixed, self.both) - 1) * min(1.0, self.seen + 0.5)
        return 1 - ops.lncc(moved, self.fixed, window=self.window, weight=self.both, eps=self.eps) * min(1.0, self.seen + 0.5)


def register_affine(fixed: Scan, moving: Scan, grid: Grid, config: Config, progress: Progress) -> tuple[Affine, str, list[float]]:
    """The affine (fixed world to moving world), the name of the start that won, and the loss of every iteration on its way (where the stage
    is off, of every start)."""
    stage, dims = config.affine, grid.ndim
    place = _Place(mass_center(fixed), float(np.linalg.norm(np.asarray(grid.spacing) * grid.shape) / 4))
    levels = [level_grid(grid, max(1.0, (np.prod(grid.shape) / voxels) ** (1 / dims))) for voxels in stage.voxels]
    level = _Level(fixed, moving, levels[0], config)
    candidates = starts(fixed, moving, stage.starts)
    if not stage.enabled:
        losses = [float(level.loss(torch.from_numpy(start.matrix))) for start in candidates]
        best = candidates[int(np.argmin(losses))]
        return Affine(best.matrix), best.name, losses
    still = torch.zeros(dims, dims + 1)
    screened = []
    for n, start in enumerate(candidates):
        screened.append((start, _descend(level, start, still, place, SCREENED, stage.step)))
        progress("start", (n + 1) / len(candidates))
    screened.sort(key=lambda item: item[1].loss)
    finalists = []
    for n, (start, found) in enumerate(screened[:KEPT]):
        finalists.append((start, _descend(level, start, found.parameters, place, stage.iterations[0], stage.step)))
        progress("affine", (n + 1) * stage.iterations[0] / (KEPT * stage.iterations[0] + sum(stage.iterations[1:])))
    start, found = min(finalists, key=lambda item: item[1].loss)
    curve = list(found.curve)
    for finer, iterations in zip(levels[1:], stage.iterations[1:]):
        found = _descend(_Level(fixed, moving, finer, config), start, found.parameters, place, iterations, stage.step / 2)
        curve += found.curve
    return Affine(_matrix(start.matrix, found.parameters, place).numpy()), start.name, curve


@dataclass(frozen=True)
class _Place:
    """What the parameters are counted about and in: the fixed scan's centre (world), and its radius in mm for translations."""

    center: np.ndarray
    radius: float


@dataclass(frozen=True)
class _Descent:
    parameters: torch.Tensor  # (D, D+1)
    loss: float  # of these parameters
    curve: list[float]  # of every iteration


def _descend(level: _Level, start: Start, parameters: torch.Tensor, place: _Place, iterations: int, step: float) -> _Descent:
    p = parameters.clone().requires_grad_()
    optimiser = Adam(p, lr=step, betas=(0.9, 0.99))
    curve = []
    for i in range(iterations):
        optimiser.zero_grad()
        loss = level.loss(_matrix(start.matrix, p, place), i % WEIGHT_EVERY == 0)
        loss.backward()
        optimiser.step()
        curve.append(float(loss.detach()))
    with torch.no_grad():
        return _Descent(p.detach(), float(level.loss(_matrix(start.matrix, p, place))), curve)


def _matrix(start: np.ndarray, parameters: torch.Tensor, place: _Place) -> torch.Tensor:
    """T0 C (I + P) C^-1, (D+1, D+1) float64."""
    dims = len(place.center)
    shift = torch.eye(dims + 1, dtype=torch.float64)
    shift[:dims, dims] = torch.from_numpy(place.center)
    scale = torch.ones(dims + 1, dtype=torch.float64)
    scale[dims] = place.radius
    change = torch.eye(dims + 1, dtype=torch.float64)
    change[:dims] += parameters.double() * scale
    back = shift.clone()
    back[:dims, dims] *= -1
    return torch.from_numpy(start) @ shift @ change @ back
