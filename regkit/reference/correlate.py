"""Similarity of keypoint patches to displaced patches in plain torch, one patch sample at a time. Formulas: csrc/core/correlate.h."""

import torch

SSD, DOT, COSINE = range(3)
COSINE_EPS = 1e-6


def lattice(radius: int, step: int, dims: int, device: torch.device) -> torch.Tensor:
    """All offsets of step * {-radius .. radius}^dims, (count, dims), first axis slowest."""
    axis = step * torch.arange(-radius, radius + 1, device=device)
    return torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)


def flat_index(spatial: torch.Size, positions: torch.Tensor) -> torch.Tensor:
    """Positions (..., D), clamped to the image, as offsets into a flattened image."""
    flat = torch.zeros_like(positions[..., 0])
    for d, n in enumerate(spatial):
        flat = flat * n + positions[..., d].clamp(0, n - 1)
    return flat


class Samples:
    """For each sample p of the patch: where F_p (B, N) and M_p (B, N, displacements) lie in the flattened features, and their values."""

    def __init__(self, fixed, moving, keypoints, centers, search_radius, stride, patch_radius, patch_stride):
        self.dims, self.fixed, self.moving = fixed.dim() - 2, fixed, moving
        self.keypoints, self.centers = keypoints, centers
        self.displacements = lattice(search_radius, stride, self.dims, fixed.device)
        self.patch = lattice(patch_radius, patch_stride, self.dims, fixed.device)

    def __len__(self):
        return len(self.patch)

    def __iter__(self):
        """(index, values (B, C, N)) of the fixed sample, (index, values (B, C, N, displacements)) of the moving ones."""
        for p in self.patch:
            at_fixed = flat_index(self.fixed.shape[2:], self.keypoints + p)
            at_moving = flat_index(self.moving.shape[2:], self.centers[:, :, None] + self.displacements + p)
            yield at_fixed, take(self.fixed, at_fixed), at_moving, take(self.moving, at_moving)


def take(features: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """features (B, C, *spatial) at flat positions (B, ...) -> (B, C, ...)."""
    flat = index.flatten(1)[:, None].expand(-1, features.shape[1], -1)
    return features.flatten(2).gather(2, flat).reshape(*features.shape[:2], *index.shape[1:])


def put(features: torch.Tensor, index: torch.Tensor, values: torch.Tensor) -> None:
    """Adds values (B, C, ...) to features (B, C, voxels) at flat positions (B, ...)."""
    features.scatter_add_(2, index.flatten(1)[:, None].expand(-1, features.shape[1], -1), values.flatten(2))


def working_dtype(*tensors: torch.Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _norms(samples: Samples) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums over patch and channels: F M (B, N, displacements), |F| (B, N, 1), |M| (B, N, displacements)."""
    dot = square_fixed = square_moving = 0
    for _, f, _, m in samples:
        dot, square_fixed, square_moving = dot + (f[..., None] * m).sum(1), square_fixed + (f * f).sum(1), square_moving + (m * m).sum(1)
    return dot, square_fixed[..., None].sqrt(), square_moving.sqrt()


def correlate_keypoints(
    fixed, moving, keypoints, centers, search_radius: int, stride: int, patch_radius: int, patch_stride: int, metric: int
):
    dtype = working_dtype(fixed, moving)
    samples = Samples(fixed.to(dtype), moving.to(dtype), keypoints, centers, search_radius, stride, patch_radius, patch_stride)
    if metric == COSINE:
        dot, norm_fixed, norm_moving = _norms(samples)
        return (dot / (norm_fixed * norm_moving + COSINE_EPS)).to(fixed.dtype)
    out = 0
    for _, f, _, m in samples:
        f = f[..., None]
        out = out + ((f - m).square() if metric == SSD else f * m).sum(1)
    return (out / len(samples)).to(fixed.dtype)


def correlate_keypoints_backward(
    grad, fixed, moving, keypoints, centers, search_radius, stride, patch_radius, patch_stride, metric, need_fixed: bool, need_moving: bool
):
    dtype = working_dtype(fixed, moving)
    samples = Samples(fixed.to(dtype), moving.to(dtype), keypoints, centers, search_radius, stride, patch_radius, patch_stride)
    g = grad.to(dtype) / len(samples)
    if metric == COSINE:
        dot, norm_fixed, norm_moving = _norms(samples)
        inverse = 1 / (norm_fixed * norm_moving + COSINE_EPS)
        alpha = grad.to(dtype) * inverse
        pull = -alpha * dot * inverse
        beta = torch.where(norm_moving > 0, pull * norm_fixed / norm_moving, 0.0)
        gamma = torch.where(norm_fixed > 0, pull * norm_moving / norm_fixed, 0.0).sum(2)
    elif metric == SSD:
        alpha, beta, gamma = -2 * g, 2 * g, 2 * g.sum(2)
    else:
        alpha, beta, gamma = g, torch.zeros_like(g), torch.zeros_like(g[..., 0])
    grad_fixed, grad_moving = torch.zeros_like(samples.fixed.flatten(2)), torch.zeros_like(samples.moving.flatten(2))
    for at_fixed, f, at_moving, m in samples:
        put(grad_fixed, at_fixed, (alpha[:, None] * m).sum(3) + gamma[:, None] * f)
        put(grad_moving, at_moving, alpha[:, None] * f[..., None] + beta[:, None] * m)
    return (
        grad_fixed.reshape(fixed.shape).to(fixed.dtype) if need_fixed else fixed.new_empty(0),
        grad_moving.reshape(moving.shape).to(moving.dtype) if need_moving else moving.new_empty(0),
    )
