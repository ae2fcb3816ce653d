"""MIND-SSC by convolutions."""

import torch
import torch.nn.functional as F


def convolutions(image: torch.Tensor, radius: int, dilation: int) -> torch.Tensor:
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
