"""The peers: what people use where regkit is not at hand, in plain torch, written as these formulas are commonly written; and MONAI's."""

import torch
import torch.nn.functional as F


def identity_grid(size: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Voxel indices (1, D, *size)."""
    axes = [torch.arange(n, dtype=like.dtype, device=like.device) for n in size]
    return torch.stack(torch.meshgrid(axes, indexing="ij"))[None]


def normalised_grid(displacement: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """Sampling positions as grid_sample wants them: [-1, 1], last axis first, components last."""
    size = displacement.shape[2:]
    positions = identity + displacement
    for d, n in enumerate(size):
        positions[:, d] = 2 * (positions[:, d] / (n - 1) - 0.5)
    return positions.movedim(1, -1)[..., list(range(len(size)))[::-1]]


def composite_warp(image: torch.Tensor, displacement: torch.Tensor, identity: torch.Tensor, padding: str = "zeros") -> torch.Tensor:
    """A spatial transformer layer: identity grid plus displacement, normalise, grid_sample."""
    return F.grid_sample(image, normalised_grid(displacement, identity), mode="bilinear", padding_mode=padding, align_corners=True)


def composite_compose(u: torch.Tensor, v: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """v + u(x + v)."""
    return v + composite_warp(u, v, identity, padding="border")


def separable_lncc(a: torch.Tensor, b: torch.Tensor, window: int, eps: float) -> torch.Tensor:
    """Mean squared local NCC, its box sums by one 1-D convolution an axis."""
    dims = a.dim() - 2

    def box(x: torch.Tensor) -> torch.Tensor:
        for axis in range(dims):
            shape = [1] * dims
            shape[axis] = window
            padding = [0] * dims
            padding[axis] = window // 2
            convolve = F.conv3d if dims == 3 else F.conv2d
            x = convolve(x, torch.ones(1, 1, *shape, dtype=x.dtype, device=x.device), padding=padding)
        return x

    n = window**dims
    sum_a, sum_b = box(a), box(b)
    cross = box(a * b) - sum_a * sum_b / n
    variance_a = (box(a * a) - sum_a * sum_a / n).clamp_min(0) + eps
    variance_b = (box(b * b) - sum_b * sum_b / n).clamp_min(0) + eps
    return (cross * cross / (variance_a * variance_b)).mean()


def monai_lncc(dims: int, window: int, eps: float):
    """MONAI's loss as the mean squared local NCC."""
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    loss = LocalNormalizedCrossCorrelationLoss(
        spatial_dims=dims, kernel_size=window, kernel_type="rectangular", smooth_nr=0.0, smooth_dr=eps
    )
    return lambda a, b: -loss(a, b)


def convolution_mind_ssc(image: torch.Tensor, radius: int, dilation: int) -> torch.Tensor:
    """MIND-SSC of a 3-D image (B, 1, *spatial): dilated convolutions fetch the voxels of the 12 pairs, a box filter sums them."""
    offsets = [(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1) if abs(i) + abs(j) + abs(k) == 1]
    pairs = [(p, q) for n, p in enumerate(offsets) for q in offsets[:n] if sum((x - y) ** 2 for x, y in zip(p, q)) == 2]
    first, second = (image.new_zeros(len(pairs), 1, 3, 3, 3) for _ in range(2))
    for n, (p, q) in enumerate(pairs):
        first[n, 0, p[0] + 1, p[1] + 1, p[2] + 1] = 1
        second[n, 0, q[0] + 1, q[1] + 1, q[2] + 1] = 1
    padded = F.pad(image, [dilation] * 6, mode="replicate")
    squared = (F.conv3d(padded, first, dilation=dilation) - F.conv3d(padded, second, dilation=dilation)).square()
    distance = F.avg_pool3d(F.pad(squared, [radius] * 6, mode="replicate"), 2 * radius + 1, stride=1)
    distance = distance - distance.amin(1, keepdim=True)
    variance = distance.mean(1, keepdim=True)
    mean = variance.mean()
    return torch.exp(-distance / variance.clamp(mean * 1e-3, mean * 1e3))


def gradient_jacobian_determinant(displacement: torch.Tensor) -> torch.Tensor:
    """det(I + grad u) by torch.gradient and torch.linalg.det."""
    dims = displacement.shape[1]
    rows = [torch.stack(torch.gradient(displacement[:, d], dim=list(range(1, dims + 1))), -1) for d in range(dims)]
    jacobian = torch.stack(rows, -2) + torch.eye(dims, dtype=displacement.dtype, device=displacement.device)
    return torch.linalg.det(jacobian)[:, None]


def expanded_jacobian_determinant(displacement: torch.Tensor) -> torch.Tensor:
    """det(I + grad u) by torch.gradient, the determinant written out."""
    dims = displacement.shape[1]
    g = [torch.gradient(displacement[:, d], dim=list(range(1, dims + 1))) for d in range(dims)]
    j = [[g[d][e] + (d == e) for e in range(dims)] for d in range(dims)]
    if dims == 2:
        return (j[0][0] * j[1][1] - j[0][1] * j[1][0])[:, None]
    minors = [j[1][(e + 1) % 3] * j[2][(e + 2) % 3] - j[1][(e + 2) % 3] * j[2][(e + 1) % 3] for e in range(3)]
    return sum(j[0][e] * minors[e] for e in range(3))[:, None]


def sliced_diffusion(displacement: torch.Tensor) -> torch.Tensor:
    """Mean over axes of the mean squared forward difference."""
    axes = range(2, displacement.dim())
    return sum(displacement.diff(dim=axis).square().mean() for axis in axes) / len(axes)
