"""From displacements at scattered points to a dense field: thin-plate spline, or splatting onto a coarse grid."""

from itertools import product

import torch
import torch.nn.functional as F

CHUNK = 1 << 22  # kernel values held at a time


def upsample_steps(coarse: torch.Tensor, spatial: tuple[int, ...], step: int) -> torch.Tensor:
    """Linear interpolation of values at voxels 0, step, 2 step ... onto every voxel."""
    mode = "trilinear" if len(spatial) == 3 else "bilinear"
    size = [(n - 1) * step + 1 for n in coarse.shape[2:]]
    full = F.interpolate(coarse, size=size, mode=mode, align_corners=True)
    return full[(slice(None), slice(None), *(slice(0, n) for n in spatial))].contiguous()


def splat(points: torch.Tensor, values: torch.Tensor, spatial: tuple[int, ...], *, step: int = 6, smoothing: int = 3) -> torch.Tensor:
    """Weighted mean of the values around each voxel, falling off to 0 far from all points.

    Values (N, D) and ones are splatted linearly from points (N, D, voxels) onto a grid of every `step`-th voxel,
    both smoothed by `smoothing` box filters 5 wide, and divided. Source: GraphRegNet (Hansen & Heinrich 2021). Returns (1, D, *spatial).
    """
    dims = len(spatial)
    shape = [-(-(n - 1) // step) + 1 for n in spatial]
    cell = points / step
    base = torch.minimum(cell.floor(), torch.tensor(shape, device=points.device) - 2.0).clamp_min(0)
    fraction = cell - base
    channels = torch.cat([values, values.new_ones(len(values), 1)], 1).T
    grid = values.new_zeros(dims + 1, *shape).flatten(1)
    for corner in product((0, 1), repeat=dims):
        weight = torch.stack([fraction[:, d] if c else 1 - fraction[:, d] for d, c in enumerate(corner)]).prod(0)
        index = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        for d, c in enumerate(corner):
            index = index * shape[d] + (base[:, d].long() + c).clamp_max(shape[d] - 1)
        grid.index_add_(1, index, channels * weight)
    grid = grid.reshape(1, dims + 1, *shape)
    pool = F.avg_pool3d if dims == 3 else F.avg_pool2d
    for _ in range(smoothing):
        grid = pool(F.pad(grid, [2, 2] * dims), 5, stride=1)  # its own padding refuses grids under 5 cells
    return upsample_steps(grid[:, :-1] / (grid[:, -1:] + 1e-4), spatial, step)


def thin_plate_spline(
    points: torch.Tensor, values: torch.Tensor, spatial: tuple[int, ...], *, smoothing: float = 0.1, step: int = 4
) -> torch.Tensor:
    """Thin-plate spline through (or, with smoothing > 0, near) the values, evaluated on every `step`-th voxel and interpolated.
    Returns (1, D, *spatial).

    Kernel r^2 log r in coordinates scaled to [-1, 1], also in 3-D, as in the displacement methods of Heinrich et al.; plus an affine part.
    """
    dims = len(spatial)
    scale = max(spatial) / 2
    x = (points.double() - (torch.tensor(spatial, device=points.device) - 1) / 2) / scale
    n = len(x)

    def kernel(a, b):
        squared = torch.cdist(a, b).square()
        return 0.5 * squared * torch.log(squared + 1e-12)

    ones = torch.cat([x.new_ones(n, 1), x], 1)
    system = x.new_zeros(n + dims + 1, n + dims + 1)
    system[:n, :n] = kernel(x, x) + smoothing * torch.eye(n, dtype=torch.float64, device=x.device)
    system[:n, n:], system[n:, :n] = ones, ones.T
    weights = torch.linalg.solve(system, torch.cat([values.double(), x.new_zeros(dims + 1, dims)])).float()
    shape = [-(-(k - 1) // step) + 1 for k in spatial]
    axes = [(torch.arange(k, device=x.device) * step - (s - 1) / 2) / scale for k, s in zip(shape, spatial)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dims).float()
    out = [kernel(part, x.float()) @ weights[:n] + weights[n] + part @ weights[n + 1 :] for part in places.split(max(1, CHUNK // n))]
    return upsample_steps(torch.cat(out).T.reshape(1, dims, *shape), spatial, step)
