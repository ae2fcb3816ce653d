"""Thin-plate splines of many points: small splines around the nodes of a lattice, blended.

The spline of N points is a dense system of N equations: 51 GB for the 80,000 points that a network tells. Far points hardly matter, so each
node of a lattice has the spline of the k points nearest to it, and a place takes those of the 2^D nodes around it by linear weights, which
add up to 1: what all of them have in common (an affine motion) is kept exactly, and the blend goes through a point if all its nodes have
it among their k.
"""

import itertools

import torch

from regkit.registration.densify import upsample_steps

CHUNK = 1 << 23  # numbers held at a time


def local_thin_plate_spline(
    points: torch.Tensor,  # (N, D), voxels
    values: torch.Tensor,  # (N, V)
    spatial: tuple[int, ...],
    *,
    neighbours: int = 64,
    spacing: float = 16.0,
    smoothing: float = 0.0,
    step: int = 2,
) -> torch.Tensor:  # (1, V, *spatial)
    """A smooth field that goes through (smoothing 0) or near the values at the points, on every voxel.

    neighbours: k. spacing: voxels between nodes. step: the blend is computed at every so many voxels and interpolated between them.
    Kernel r in 3-D and r^2 log r in 2-D, the thin-plate kernels of Duchon 1977, plus an affine part.

    Raises ValueError for fewer than D + 1 points, or neighbours.
    """
    dims = points.shape[1]
    if min(len(points), neighbours) <= dims:
        raise ValueError(
            f"a spline in {dims}-D needs {dims + 1} points and neighbours at least, but came with {len(points)} and {neighbours}"
        )
    k = min(neighbours, len(points))
    x = points.to(torch.float64)
    counts = [max(2, -(-(n - 1) // int(spacing)) + 1) for n in spatial]
    axes = [torch.linspace(0, n - 1, count, dtype=torch.float64, device=x.device) for n, count in zip(spatial, counts)]
    nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dims)
    near = torch.cat([torch.cdist(part, x).topk(k, largest=False).indices for part in nodes.split(max(1, CHUNK // len(x)))])
    splines = _splines(x[near] - nodes[:, None], values.to(torch.float64)[near], spacing, smoothing)
    shape = [-(-(n - 1) // step) + 1 for n in spatial]
    places = [torch.arange(n, dtype=torch.float64, device=x.device) * step for n in shape]
    places = torch.stack(torch.meshgrid(*places, indexing="ij"), -1).reshape(-1, dims)
    sides = torch.tensor([max(n - 1, 1) / (count - 1) for n, count in zip(spatial, counts)], dtype=torch.float64, device=x.device)
    size = max(1, CHUNK // (k * dims))
    coarse = torch.cat([_blend(part, nodes, near, x, splines, counts, sides, spacing) for part in places.split(size)])
    return upsample_steps(coarse.T.reshape(1, -1, *shape).to(values.dtype), spatial, step)


def _kernel(r: torch.Tensor, dims: int) -> torch.Tensor:
    return r if dims == 3 else r.square() * r.clamp_min(1e-12).log()


def _splines(x: torch.Tensor, values: torch.Tensor, scale: float, smoothing: float) -> torch.Tensor:
    """Coefficients (M, k + D + 1, V) of the splines of points x (M, k, D), counted from their nodes, and values (M, k, V)."""
    count, k, dims = x.shape
    x = x / scale
    affine = torch.cat([x.new_ones(count, k, 1), x], 2)
    system = x.new_zeros(count, k + dims + 1, k + dims + 1)
    system[:, :k, :k] = _kernel(torch.cdist(x, x), dims)
    # The kernel r is negative definite beside an affine part: smoothing is taken off the diagonal there, and added for r^2 log r.
    system[:, range(k), range(k)] += smoothing if dims == 2 else -smoothing
    system[:, :k, k:], system[:, k:, :k] = affine, affine.transpose(1, 2)
    right = torch.cat([values, values.new_zeros(count, dims + 1, values.shape[2])], 1)
    # Points in one plane leave the affine part open: least squares takes the smallest.
    solved, failed = torch.linalg.solve_ex(system, right)
    bad = (failed != 0) | ~solved.flatten(1).isfinite().all(1)
    if bool(bad.any()):
        solved[bad] = torch.linalg.lstsq(system[bad], right[bad], driver="gelsd" if x.device.type == "cpu" else None).solution
    return solved


def _blend(places, nodes, near, x, splines, counts, sides, scale) -> torch.Tensor:
    """(P, V): at places (P, D) the splines of the nodes around each, by linear weights."""
    dims = places.shape[1]
    cell = places / sides
    last = torch.tensor(counts, dtype=torch.float64, device=places.device) - 2
    base = torch.minimum(cell.floor(), last).clamp_min(0)
    fraction, total = (cell - base).clamp(0, 1), 0
    for corner in itertools.product((0, 1), repeat=dims):
        index, weight = 0, 1
        for axis, up in enumerate(corner):
            index = index * counts[axis] + base[:, axis].long() + up
            weight = weight * (fraction[:, axis] if up else 1 - fraction[:, axis])
        offset = (places - nodes[index]) / scale
        r = (x[near[index]] - places[:, None]).norm(dim=2) / scale
        terms = torch.cat([_kernel(r, dims), torch.ones_like(offset[:, :1]), offset], 1)
        total = total + weight[:, None] * torch.einsum("pk,pkv->pv", terms, splines[index])
    return total
