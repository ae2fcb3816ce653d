"""Removing folds: where x + u(x) turns space inside out, the field is smoothed until it doesn't, and nowhere else."""

import math

import torch

from regkit import ops

LEAST = 0.05  # determinant that counts as unfolded; not 0, so that sampling the field on another grid does not fold it again
ROUNDS = 100
GROW = 5  # rounds until the reach grows by a voxel
MOST_SWEEPS = 100


def remove_folds(u: torch.Tensor) -> tuple[torch.Tensor, int]:
    """A copy of u (1, D, *spatial, voxels) with det(I + grad u) > 0 at every voxel, and how many voxels were folded.

    Voxels near a fold take the mean of their neighbours, again and again. While folds persist the region grows, and with it the sweeps
    that it gets between two looks (smoothing spreads with the square root of their number): u there comes ever closer to the harmonic
    continuation of its surroundings.
    """
    u = u.clone()
    folded = int((ops.jacobian_determinant(u) <= 0).sum())
    for n in range(ROUNDS):
        bad = ops.jacobian_determinant(u) <= LEAST
        if not bool(bad.any()):
            break
        reach = 1 + n // GROW
        _relax(u, _dilate(bad, reach), min(reach * reach, MOST_SWEEPS))
    return u, folded


def _around(dims: int, device: torch.device) -> torch.Tensor:
    """The 3^D offsets of a neighbourhood."""
    return torch.stack(torch.meshgrid(*[torch.arange(-1, 2, device=device)] * dims, indexing="ij"), -1).reshape(-1, dims)


def _neighbours(centre: torch.Tensor, spatial: torch.Size) -> list[torch.Tensor]:
    """Flat indices of the 3^D voxels around each of the voxels (N, D), those beyond the border moved onto it."""
    size = torch.tensor(spatial, device=centre.device)
    strides = torch.tensor([math.prod(spatial[d + 1 :]) for d in range(len(spatial))], device=centre.device)
    around = _around(len(spatial), centre.device)
    return [(torch.minimum((centre + offset).clamp_min(0), size - 1) * strides).sum(1) for offset in around]


def _dilate(mask: torch.Tensor, reach: int) -> torch.Tensor:
    """A bool mask (1, 1, *spatial) grown by `reach` voxels along every axis. Folds are few: their voxels are visited, not the volume."""
    grown = mask.clone()
    for _ in range(reach):
        for index in _neighbours(grown[0, 0].nonzero(), mask.shape[2:]):
            grown.view(-1)[index] = True
    return grown


def _relax(u: torch.Tensor, region: torch.Tensor, sweeps: int) -> None:
    """Replaces u in the region by the mean over each voxel's 3^D neighbourhood, `sweeps` times; borders are repeated."""
    neighbours = _neighbours(region[0, 0].nonzero(), u.shape[2:])
    middle, values = neighbours[len(neighbours) // 2], u.flatten(2)[0]
    for _ in range(sweeps):
        values[:, middle] = sum(values[:, index] for index in neighbours) / len(neighbours)
