"""Removing folds: where x + u(x) turns space inside out, the field is smoothed until it doesn't, and nowhere else."""

import torch

from regkit import ops

LEAST = 0.05  # determinant that counts as unfolded; not 0, so that sampling the field on another grid does not fold it again
ROUNDS = 200


def remove_folds(u: torch.Tensor) -> tuple[torch.Tensor, int]:
    """A copy of u (1, D, *spatial, voxels) with det(I + grad u) > 0 at every voxel, and how many voxels were folded.

    Voxels near a fold take the mean of their neighbours, again and again; the reach grows while folds persist.
    """
    u = u.clone()
    folded = int((ops.jacobian_determinant(u) <= 0).sum())
    reach = 1
    for n in range(ROUNDS):
        bad = ops.jacobian_determinant(u) <= LEAST
        if not bool(bad.any()):
            break
        if n % 10 == 9:
            reach += 1
        _relax(u, bad, reach)
    return u, folded


def _relax(u: torch.Tensor, bad: torch.Tensor, reach: int) -> None:
    """Replaces u within `reach` voxels of `bad` by the mean over its 3^D neighbourhood."""
    dims, spatial = u.shape[1], u.shape[2:]
    places = bad[0, 0].nonzero()
    offsets = torch.stack(torch.meshgrid(*[torch.arange(-reach, reach + 1)] * dims, indexing="ij"), -1).reshape(-1, dims)
    limit = torch.tensor(spatial) - 1
    near = torch.minimum((places[:, None] + offsets).reshape(-1, dims).clamp_min(0), limit)
    strides = torch.tensor([int(torch.tensor(spatial[d + 1 :]).prod()) for d in range(dims)])
    flat = (near * strides).sum(1).unique()
    centre = torch.stack([(flat // strides[d]) % spatial[d] for d in range(dims)], 1)
    around = torch.stack(torch.meshgrid(*[torch.arange(-1, 2)] * dims, indexing="ij"), -1).reshape(-1, dims)
    values = u.flatten(2)[0]
    total = torch.zeros(dims, len(flat))
    for offset in around:
        neighbour = torch.minimum((centre + offset).clamp_min(0), limit)
        total += values[:, (neighbour * strides).sum(1)]
    values[:, flat] = total / len(around)
