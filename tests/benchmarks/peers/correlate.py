"""Correlation in plain torch as the literature writes it: keypoint patches, what is made of their maps, and feature maps of pyramids.

Keypoints as in GraphRegNet: gather each window, then one grouped convolution with the fixed patches as filters, |F|^2 + |M|^2 - 2 F*M over
chunks of keypoints, one group a keypoint. Borders are clamped, so that the result is that of `regkit.ops.correlate_keypoints` with
metric="ssd" and unit strides.
"""

import itertools

import torch
import torch.nn.functional as F


def grouped_convolution_ssd(
    fixed: torch.Tensor,  # (1, C, *spatial), 3-D
    moving: torch.Tensor,  # (1, C, *spatial)
    keypoints: torch.Tensor,  # (1, N, 3), integer voxels
    search_radius: int,
    patch_radius: int,
    chunk: int = 50,
) -> torch.Tensor:  # (1, N, (2 search_radius + 1)^3)
    out = fixed.new_empty(1, keypoints.shape[1], (2 * search_radius + 1) ** 3)
    patch_voxels = (2 * patch_radius + 1) ** 3
    for start in range(0, keypoints.shape[1], chunk):
        points = keypoints[0, start : start + chunk].long()
        patches = _cubes(fixed, points, patch_radius)  # (n, C, p, p, p)
        windows = _cubes(moving, points, search_radius + patch_radius)
        cross = F.conv3d(windows.flatten(0, 1)[None], patches, groups=len(points))[0].flatten(1)
        square_moving = F.avg_pool3d(windows.square().sum(1, keepdim=True), 2 * patch_radius + 1, stride=1).flatten(1)
        square_fixed = patches.square().flatten(1).sum(1, keepdim=True)
        out[0, start : start + chunk] = (square_fixed - 2 * cross) / patch_voxels + square_moving
    return out


def _cubes(features: torch.Tensor, points: torch.Tensor, radius: int) -> torch.Tensor:
    """The cube of 2 radius + 1 voxels around each point, borders clamped: (n, C, w, w, w)."""
    offsets = torch.arange(-radius, radius + 1, device=points.device)
    i, j, k = ((points[:, d, None] + offsets).clamp(0, n - 1) for d, n in enumerate(features.shape[2:]))
    return features[0][:, i[:, :, None, None], j[:, None, :, None], k[:, None, None, :]].movedim(1, 0)


def convolution_similarity_maps(
    fixed: torch.Tensor,  # (1, 1, *spatial), 3-D
    moving: torch.Tensor,  # (1, 1, *spatial)
    points: torch.Tensor,  # (1, N, 3), integer voxels
    patch_size: int,
    kernel_sizes: tuple[int, ...],
    chunk: int = 64,
) -> torch.Tensor:  # (1, N, 2 + K, *patch)
    """Patches by indexing, cosine maps by a grouped convolution a kernel size and a pooling of the squares for the local norms."""
    half = patch_size // 2
    out = fixed.new_empty(1, points.shape[1], 2 + len(kernel_sizes), *[patch_size] * 3)
    for start in range(0, points.shape[1], chunk):
        at = points[0, start : start + chunk].long()
        part = out[0, start : start + chunk]
        part[:, 0], part[:, 1] = _cubes(fixed, at, half)[:, 0], _cubes(moving, at, half)[:, 0]
        for map_, size in enumerate(kernel_sizes, start=2):
            kernels, windows = _cubes(fixed, at, size // 2), _cubes(moving, at, half + size // 2)
            dots = F.conv3d(windows[None, :, 0], kernels, groups=len(at))[0]
            squares = size**3 * F.avg_pool3d(windows.square(), size, stride=1)[:, 0]
            norms = kernels.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            part[:, map_] = dots / (norms * squares.sqrt() + 1e-6)
    return out


def displacements(search_radius: int, device: torch.device) -> torch.Tensor:  # ((2 search_radius + 1)^3, 3)
    axis = torch.arange(-search_radius, search_radius + 1.0, device=device)
    return torch.cartesian_prod(axis, axis, axis)


def soft_min(ssd: torch.Tensor, search_radius: int, sharpness: float) -> torch.Tensor:  # (1, N, L) -> (1, N, 3)
    return (-sharpness * ssd).softmax(2) @ displacements(search_radius, ssd.device)


def arg_min(ssd: torch.Tensor, search_radius: int) -> torch.Tensor:  # (1, N, L) -> (1, N, 3)
    return displacements(search_radius, ssd.device)[ssd.argmin(2)]


def shifted_products(a: torch.Tensor, b: torch.Tensor, radius: int) -> torch.Tensor:
    """Local correlation by a loop over the displacements: b padded with zeros and sliced, multiplied, averaged over the channels."""
    dims = a.dim() - 2
    padded = F.pad(b, [radius] * 2 * dims)
    shifts = itertools.product(range(2 * radius + 1), repeat=dims)
    windows = (padded[(..., *(slice(at, at + n) for at, n in zip(shift, a.shape[2:])))] for shift in shifts)
    return torch.stack([(a * window).mean(1) for window in windows], 1)


def unfolded_products(a: torch.Tensor, b: torch.Tensor, radius: int) -> torch.Tensor:
    """Local correlation by views: all windows of b at once, one contraction over the channels."""
    dims = a.dim() - 2
    windows = F.pad(b, [radius] * 2 * dims)
    for axis in range(dims):
        windows = windows.unfold(2 + axis, 2 * radius + 1, 1)  # (B, C, *spatial, *displacements)
    space, shifts = "xyz"[:dims], "ijk"[:dims]
    return torch.einsum(f"bc{space},bc{space}{shifts}->b{shifts}{space}", a, windows).flatten(1, dims) / a.shape[1]
