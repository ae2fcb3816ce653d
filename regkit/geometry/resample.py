"""Pulling an image through a transform onto a grid, with ITK's rules at the border, and anti-aliased downsampling."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch

from regkit import ops
from regkit.errors import InputError
from regkit.geometry.displacement import axis_positions, displacement_slabs, linear_rows, multiply_axis
from regkit.geometry.grid import Grid
from regkit.geometry.image import Image
from regkit.geometry.transforms import Transform

# Nearest-neighbour lookups only move bits, so integer types that torch indexes poorly travel as their signed twins.
_SIGNED_TWINS = {np.dtype(np.uint16): np.int16, np.dtype(np.uint32): np.int32, np.dtype(np.uint64): np.int64}


def resample(
    image: Image,
    grid: Grid,
    transform: Transform | None = None,
    *,
    labels: bool | Literal["majority"] | None = None,
    padding: str = "zeros",
    fill: float | None = None,
    device: torch.device | str = "cpu",
) -> Image:
    """The image pulled through ``transform`` onto ``grid``: ``result(x) = image(T(x))``; the identity between the two worlds when None.

    Parameters
    ----------
    labels : nearest neighbour and the image's dtype (True), or linear interpolation and float32 (False); None asks ``image.is_labels``.
        "majority", for integers, takes the label with the largest linear weight. A grid that halves the voxels' number has its centres
        between voxels, where the nearest one always lies on the same side: outlines move by half a voxel. By majority they stay.
    padding : "zeros" gives ``fill`` (0 unless told) where T(x) leaves the image's box, voxel edges included as in ITK;
        "border" the nearest voxel's value.
    device : where the work is done; the result's data are numpy's in any case.

    An image already on ``grid`` comes back unchanged, dtype too, when there is no transform.

    Raises
    ------
    InputError : dimensions that differ, another padding, or a fill with "border".
    """
    _check_padding(padding, fill)
    if transform is None and image.grid.matches(grid):
        return image
    labels = image.is_labels if labels is None else labels
    if labels:
        source = np.ascontiguousarray(image.data)
        source = torch.from_numpy(source.view(_SIGNED_TWINS.get(source.dtype, source.dtype)).copy())[None, None].to(device)
    else:
        source = image.tensor(device)
    blank = np.array(0 if fill is None else fill).astype(image.data.dtype if labels else np.float32)
    blank = blank.view(_SIGNED_TWINS.get(blank.dtype, blank.dtype)).item()
    data = resample_volume(source, image.grid, grid, transform, labels=labels, padding=padding, fill=blank)[0, 0].cpu().numpy()
    return replace(image, data=data.view(image.data.dtype) if labels else data, grid=grid)


def resample_volume(
    volume: torch.Tensor,
    source: Grid,
    grid: Grid,
    transform: Transform | None = None,
    *,
    labels: bool | Literal["majority"] = False,
    padding: str = "zeros",
    fill: float = 0,
) -> torch.Tensor:
    """The voxels (1, 1, *source.shape) of an image on ``source``, on any device, as :func:`resample` pulls them: (1, 1, *grid.shape)."""
    pull = partial(ops.warp_labels, mode="majority") if labels == "majority" else partial(ops.warp, mode="nearest" if labels else "linear")
    result = torch.empty((1, 1, *grid.shape), dtype=volume.dtype, device=volume.device)
    for rows, displacement in displacement_slabs(transform, grid, source, device=volume.device):
        result[0, 0, rows] = pull(volume, displacement, padding="extent" if padding == "zeros" else "border", fill=fill)[0, 0]
    return result


def smooth_resample(image: Image, grid: Grid, *, labels: bool | None = None, padding: str = "zeros", fill: float | None = None) -> Image:
    """Resample onto a coarser grid without aliasing: along each axis a Gaussian of ``0.5 sqrt(r^2 - 1)`` voxels first,
    r being the ratio of voxel sizes.

    The width takes a voxel-wide average to one r voxels wide (Cardoso et al., MICCAI 2015, up to the constant). Axes with r <= 1 are not
    smoothed, nor are labels. Other arguments as in :func:`resample`.
    """
    labels = image.is_labels if labels is None else labels
    if labels or image.ndim != grid.ndim:
        return resample(image, grid, labels=labels, padding=padding, fill=fill)
    _check_padding(padding, fill)
    volume = smooth_resample_volume(image.tensor(), image.grid, grid, padding=padding, fill=fill or 0.0)
    return replace(image, data=volume[0, 0].numpy(), grid=grid)


def smooth_resample_volume(volume: torch.Tensor, source: Grid, grid: Grid, *, padding: str = "zeros", fill: float = 0) -> torch.Tensor:
    """The voxels (1, 1, *source.shape) of an image on ``source``, on any device, as :func:`smooth_resample` takes them onto ``grid``."""
    to_image = np.linalg.inv(source.affine) @ grid.affine
    ratios = np.linalg.norm(to_image[:-1, :-1], axis=1)
    smoothing = [_gaussian_rows(n, 0.5 * np.sqrt(max(ratio**2 - 1.0, 0.0))) for n, ratio in zip(source.shape, ratios, strict=True)]
    positions = axis_positions(to_image, grid.shape)
    values = volume[0, 0]
    if positions and all(p.min() >= -0.5 and p.max() <= n - 0.5 for p, n in zip(positions, source.shape, strict=True)):
        # Inside the box and along its axes, smoothing and interpolation are one small matrix an axis, and each product shrinks the volume.
        for axis, (rows, at) in enumerate(zip(smoothing, positions, strict=True)):
            values = multiply_axis(values, axis, linear_rows(len(rows), at) @ rows)
        return values[None, None]
    for axis, rows in enumerate(smoothing):
        values = multiply_axis(values, axis, rows)
    return values[None, None] if source.matches(grid) else resample_volume(values[None, None], source, grid, padding=padding, fill=fill)


def _check_padding(padding: str, fill: float | None) -> None:
    if padding not in ("zeros", "border"):
        raise InputError(f'padding must be "zeros" or "border", got "{padding}"')
    if padding == "border" and fill is not None:
        raise InputError(f'fill={fill} needs padding="zeros"; "border" repeats the edge')


def _gaussian_rows(size: int, sigma: float) -> np.ndarray:
    """(size, size) rows of a Gaussian around each voxel, each summing to 1: near the border what lies outside takes no part.
    The identity for sigma 0."""
    distance = np.arange(size)[:, None] - np.arange(size)[None]
    weights = np.exp(-0.5 * (distance / max(sigma, 1e-3)) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)
