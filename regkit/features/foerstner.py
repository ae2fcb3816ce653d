"""Foerstner keypoints: places whose surroundings pin down a position in every direction."""

import math

import torch
import torch.nn.functional as F

_DERIVATIVE = (1.0, -8.0, 0.0, 8.0, -1.0)  # five-point central difference, over 12


def _along(x: torch.Tensor, taps: torch.Tensor, axis: int) -> torch.Tensor:
    """Correlates (B, C, *spatial) with taps along one spatial axis, borders replicated."""
    dims, half = x.dim() - 2, len(taps) // 2
    padding = [0, 0] * (dims - 1 - axis) + [half, half] + [0, 0] * axis
    kernel = taps.to(x).reshape([1, 1] + [len(taps) if d == axis else 1 for d in range(dims)])
    convolve = F.conv3d if dims == 3 else F.conv2d
    padded = F.pad(x, padding, mode="replicate")
    return convolve(padded.flatten(0, 1)[:, None], kernel).reshape(x.shape)


def _gaussian(sigma: float, device: torch.device) -> torch.Tensor:
    half = math.ceil(1.5 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-half, half + 1, device=device) / sigma) ** 2)
    return taps / taps.sum()


def distinctiveness(image: torch.Tensor, sigma: float = 1.4) -> torch.Tensor:
    """S = 1 / trace(A^-1), A = Gaussian-smoothed structure tensor of the image gradient; (1, 1, *spatial) -> (1, 1, *spatial)."""
    dims = image.dim() - 2
    derivative, smooth = torch.tensor(_DERIVATIVE, device=image.device) / 12, _gaussian(sigma, image.device)
    gradient = [_along(image, derivative, d) for d in range(dims)]
    tensor = {}
    for d in range(dims):
        for e in range(d, dims):
            product = gradient[d] * gradient[e]
            for axis in range(dims):
                product = _along(product, smooth, axis)
            tensor[d, e] = product
    # trace(A^-1) = sum of principal minors over the determinant
    if dims == 2:
        determinant, minors = tensor[0, 0] * tensor[1, 1] - tensor[0, 1] ** 2, tensor[0, 0] + tensor[1, 1]
    else:
        a, b, c, d, e, f = (tensor[k] for k in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)))
        determinant = a * (d * f - e * e) - b * (b * f - c * e) + c * (b * e - c * d)
        minors = (d * f - e * e) + (a * f - c * c) + (a * d - b * b)
    return determinant.clamp_min(0) / minors.clamp_min(1e-20)


def foerstner_keypoints(
    image: torch.Tensor,  # (1, 1, *spatial), intensities in 0..1
    mask: torch.Tensor | None = None,  # (1, 1, *spatial), > 0 inside
    *,
    count: int = 1500,
    spread: int = 7,
    sigma: float = 1.4,
    threshold: float = 1e-8,
) -> torch.Tensor:  # (N, D) int64 voxels, N <= count
    """Local maxima of the Foerstner interest operator, thinned to `count` by farthest-point sampling.

    A voxel is kept where S = 1 / trace(A^-1) is the maximum of its `spread`-wide window and at least `threshold`, inside the mask eroded by
    its face neighbours. Gradients by [1, -8, 0, 8, -1] / 12, structure tensor smoothed by a Gaussian of `sigma` voxels.

    Source: Foerstner & Guelch 1987; as used by Heinrich et al. (corrField) and GraphRegNet.
    """
    dims = image.dim() - 2
    score = distinctiveness(image, sigma)
    pool = F.max_pool3d if dims == 3 else F.max_pool2d
    left, right = (spread - 1) // 2, spread // 2
    peak = score == pool(F.pad(score, [left, right] * dims, value=-1.0), spread, stride=1)
    keep = peak & (score >= threshold)
    if mask is not None:
        inside = (mask > 0).to(image.dtype)
        keep &= torch.stack([inside, *(_shift_minimum(inside, axis) for axis in range(dims))]).amin(0) > 0
    points = keep[0, 0].nonzero()
    return points if len(points) <= count else points[farthest_points(points, count, score[0, 0][keep[0, 0]])]


def _shift_minimum(inside: torch.Tensor, axis: int) -> torch.Tensor:
    """Minimum over the two neighbours along one spatial axis; outside the image counts as outside the mask."""
    n = inside.shape[axis + 2]
    padded = F.pad(inside, [0, 0] * (inside.dim() - 3 - axis) + [1, 1])
    return torch.minimum(padded.narrow(axis + 2, 0, n), padded.narrow(axis + 2, 2, n))


def farthest_points(points: torch.Tensor, count: int, score: torch.Tensor) -> torch.Tensor:
    """Indices of `count` points, each the farthest from those before it; the first is the most distinctive one."""
    x = points.to(torch.float32)
    chosen = torch.empty(count, dtype=torch.int64, device=x.device)
    distance = torch.full((len(x),), float("inf"), device=x.device)
    current = score.argmax(0, keepdim=True)
    for i in range(count):
        chosen[i : i + 1] = current
        distance = torch.minimum(distance, (x - x.index_select(0, current)).square().sum(1))
        current = distance.argmax(0, keepdim=True)  # a tensor: nothing waits for a GPU
    return chosen
