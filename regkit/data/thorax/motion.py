"""How the thorax moves from breathed in to breathed out, and the inverse of a displacement.

The diaphragm rises, most at the back; the lung follows with a motion that fades smoothly towards the apex. The chest wall falls inwards.
Spine and ribs do not rise with the lung: the motion dies out across the pleura, steeply, but without a tear, so that the truth is a smooth
invertible map. Small irregular motion inside makes sure that no simple law explains it all.
"""

import numpy as np
import torch

from regkit import ops
from regkit.data.random_field import smooth_random_field
from regkit.data.thorax import organs
from regkit.data.thorax.organs import smoothstep
from regkit.errors import UsageError

_RISE, _FALL_FRONT, _FALL_SIDE, _IRREGULAR = 25.0, 5.0, 3.0, 2.5
_IRREGULAR_SIGMA = 22.0
_FADES_FROM_Z = -100.0
_COARSE = 4
_TOLERANCE = 1e-3
_ROUNDS = 100


def breathing(
    x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, spacing: np.ndarray, motion: float, rng: np.random.Generator
) -> torch.Tensor:
    """Displacement (3, I, J, K) in mm from breathed in to breathed out; the longest vector in the lungs has `motion` mm.

    x (I, 1, 1), y (1, J, 1), z (1, 1, K) are the positions of the grid in mm.

    Raises:
        UsageError: the grid shows no lung.
    """
    shape = (x.numel(), y.numel(), z.numel())
    within = smoothstep(organs.cavity_depth(x, y, z), -7.0, 8.0)
    off_spine = smoothstep(organs.spine_distance(x, y), 24.0, 45.0)
    heart_lags = 1 - 0.3 * torch.exp(-((x / 35) ** 2))
    to_the_back = 0.85 + 0.15 * smoothstep(-y, -60.0, 80.0)
    fading = 1 - smoothstep(z, _FADES_FROM_Z, organs.APEX_Z + 10)
    lower_chest = smoothstep(organs.APEX_Z - z, 0.0, 150.0)

    field = smooth_random_field(shape, tuple(_IRREGULAR_SIGMA / spacing), rng, channels=3) * (_IRREGULAR / 2 * within * off_spine)
    field[0] -= _FALL_SIDE * lower_chest * x / 130
    field[1] -= _FALL_FRONT * lower_chest * smoothstep(y, -90.0, 90.0)
    field[2] += _RISE * fading * within * off_spine * heart_lags * to_the_back
    lungs = organs.lung_depth(x, y, z) > 0
    if not lungs.any():
        extent = " x ".join(f"{size * step:.0f}" for size, step in zip(shape, spacing))
        raise UsageError(f"the grid of {extent} mm in the middle of the chest shows no lung; give a larger shape or spacing")
    return field * (motion / field.square().sum(0)[lungs].max().sqrt())


def invert(u: torch.Tensor) -> torch.Tensor:
    """The displacement v on the same grid with v(y) = -u(y + v(y)), so that y + v(y) undoes x + u(x).

    Fixed-point iteration, first on a coarse grid. u (1, 3, I, J, K) in voxels, interpolated linearly and constant beyond the border.

    Raises:
        ValueError: the iteration does not settle, because u folds.
    """
    strides = [_COARSE if size > 4 * _COARSE else 1 for size in u.shape[2:]]
    scale = torch.tensor(strides, dtype=u.dtype).view(1, -1, 1, 1, 1)
    coarse = u[:, :, :: strides[0], :: strides[1], :: strides[2]].contiguous() / scale
    axes = [torch.arange(size, dtype=u.dtype) for size in u.shape[2:]]
    shrink = torch.stack(torch.meshgrid(*(axis / stride - axis for axis, stride in zip(axes, strides)), indexing="ij"))[None]
    start = ops.warp(_iterate(coarse, -coarse, 0.05), shrink, padding="border") * scale
    return _iterate(u, start, _TOLERANCE)


def _iterate(u: torch.Tensor, v: torch.Tensor, tolerance: float) -> torch.Tensor:
    for _ in range(_ROUNDS):
        following = -ops.warp(u, v, padding="border")
        change = float((following - v).abs().max())
        v = following
        if change < tolerance:
            return v
    raise ValueError(f"no inverse after {_ROUNDS} rounds, which still change it by {change:.3f} voxels; give a displacement without folds")
