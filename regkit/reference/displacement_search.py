"""What is made of the similarities to a search cube without keeping them: expected and best displacement, embedding. In plain torch.

Displacements are relative to the centre of the cube, in voxels: stride * {-search_radius .. search_radius}^D, first axis slowest.
"""

import torch

from regkit.reference.correlate import SSD, correlate_keypoints, correlate_keypoints_backward, lattice, working_dtype


def _similarities(fixed, moving, dtype, keypoints, centers, *search):
    return correlate_keypoints(fixed.to(dtype), moving.to(dtype), keypoints, centers, *search)


def _displacements(fixed, search_radius, stride) -> torch.Tensor:
    return lattice(search_radius, stride, fixed.dim() - 2, fixed.device)


def _slope(metric: int, sharpness: float) -> float:
    """Of a displacement's score in the soft-min (ssd) or soft-max (dot, cosine)."""
    return -sharpness if metric == SSD else sharpness


def expected_displacement(
    fixed, moving, keypoints, centers, search_radius: int, stride: int, patch_radius: int, patch_stride: int, metric: int, sharpness: float
):
    dtype = working_dtype(fixed, moving)
    search = search_radius, stride, patch_radius, patch_stride, metric
    scores = _slope(metric, sharpness) * _similarities(fixed, moving, dtype, keypoints, centers, *search)
    logsumexp = scores.logsumexp(2)
    weights = (scores - logsumexp[..., None]).exp()
    return weights @ _displacements(fixed, search_radius, stride).to(dtype), logsumexp


def expected_displacement_backward(
    grad, displacement, logsumexp, fixed, moving, keypoints, centers,
    search_radius, stride, patch_radius, patch_stride, metric, sharpness, need_fixed: bool, need_moving: bool,
):  # fmt: skip
    dtype = working_dtype(fixed, moving)
    search = search_radius, stride, patch_radius, patch_stride, metric
    slope, g = _slope(metric, sharpness), grad.to(dtype)
    weights = (slope * _similarities(fixed, moving, dtype, keypoints, centers, *search) - logsumexp[..., None]).exp()
    along = g @ _displacements(fixed, search_radius, stride).to(dtype).T - (g * displacement).sum(2, keepdim=True)  # (d - expected) . g
    return correlate_keypoints_backward(slope * weights * along, fixed, moving, keypoints, centers, *search, need_fixed, need_moving)


def best_displacement(fixed, moving, keypoints, centers, search_radius, stride, patch_radius, patch_stride, metric: int):
    dtype = working_dtype(fixed, moving)
    search = search_radius, stride, patch_radius, patch_stride, metric
    costs = _similarities(fixed, moving, dtype, keypoints, centers, *search)
    costs = costs if metric == SSD else -costs
    least = costs.amin(2, keepdim=True)
    displacements = _displacements(fixed, search_radius, stride)
    order = displacements.square().sum(1).argsort(stable=True)  # the shortest first, equally short ones as they come
    first = (costs[..., order] == least).to(torch.uint8).argmax(2)
    return torch.where(least.isnan(), torch.nan, displacements[order[first]].to(dtype))


def embed_displacements(
    fixed, moving, keypoints, centers, basis, search_radius, stride, patch_radius, patch_stride, metric: int
):  # fmt: skip
    dtype = working_dtype(fixed, moving, basis)
    search = search_radius, stride, patch_radius, patch_stride, metric
    return (_similarities(fixed, moving, dtype, keypoints, centers, *search) @ basis.to(dtype)).to(basis.dtype)


def embed_displacements_backward(
    grad, fixed, moving, keypoints, centers, basis,
    search_radius, stride, patch_radius, patch_stride, metric, need_fixed: bool, need_moving: bool, need_basis: bool,
):  # fmt: skip
    dtype = working_dtype(fixed, moving, basis)
    search = search_radius, stride, patch_radius, patch_stride, metric
    g = grad.to(dtype)
    grad_fixed, grad_moving = correlate_keypoints_backward(
        g @ basis.to(dtype).T, fixed.to(dtype), moving.to(dtype), keypoints, centers, *search, need_fixed, need_moving
    )
    grad_basis = basis.new_empty(0)
    if need_basis:
        similarities = _similarities(fixed, moving, dtype, keypoints, centers, *search)
        grad_basis = (similarities.flatten(0, 1).T @ g.flatten(0, 1)).to(basis.dtype)
    return grad_fixed.to(fixed.dtype), grad_moving.to(moving.dtype), grad_basis
