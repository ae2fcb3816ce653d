"""The ops on a search cube by the kernels of csrc/cuda/search.cu and embed.cu: their forward passes, of float32 and halves.

Gradients, float64 and patches that fill shared memory are Triton's.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from regkit.ops import cuda, native
from regkit.ops.backends import triton_kernel

GROUP = 4  # channels that lie together
BLOCK_POINTS, BLOCK_COLUMNS, CHUNK = 32, (64, 256), 64  # of embed.cu
PROGRAMS = 1056  # blocks that keep a large GPU busy: 8 for each multiprocessor of an H200
MOST_SHARES = 32


class _Search:
    """Inputs as the launchers take them."""

    def __init__(self, fixed, moving, keypoints, centers, radius, stride, patch_radius, patch_stride, metric):
        dtype = fixed.dtype if fixed.dtype == moving.dtype else torch.float32
        self._tensors = _grouped(fixed.to(dtype)), _grouped(moving.to(dtype)), keypoints.contiguous(), centers.contiguous()
        dims = fixed.dim() - 2
        channels = -(-fixed.shape[1] // GROUP) * GROUP
        self._sizes = (
            dims, (fixed.shape[0], channels, keypoints.shape[1]), native.sizes(fixed.shape[2:]), native.sizes(moving.shape[2:]),
            (radius, stride, patch_radius, patch_stride, metric),
        )  # fmt: skip
        self.device, self.points = fixed.device, keypoints.shape[0] * keypoints.shape[1]

    def run(self, name: str, *args) -> None:
        fixed, moving, keypoints, centers = self._tensors
        stored = cuda.STORED[fixed.dtype]
        cuda.run(name, fixed, moving, stored, keypoints, centers, *self._sizes, *args, device=self.device)


def _grouped(features: torch.Tensor) -> torch.Tensor:
    """(B, C, *spatial) as contiguous (B, C / 4, *spatial, 4), with channels of zeros up to a multiple of 4."""
    missing = -features.shape[1] % GROUP
    if missing:
        features = F.pad(features, (0, 0) * (features.dim() - 2) + (0, missing))
    return features.unflatten(1, (-1, GROUP)).movedim(2, -1).contiguous()


def serves(most: str, *others: int) -> Callable[..., bool]:
    """Whether the kernels take a call. most: name of the limit of their patches; others: places of more tensors that they compute with."""

    def fits(*args) -> bool:
        fixed, moving = args[:2]
        patch_radius = args[4 + len(others) + 2]
        tensors = [fixed, moving, *(args[n] for n in others)]
        channels = -(-fixed.shape[1] // GROUP) * GROUP
        patch = channels * (2 * patch_radius + 1) ** (fixed.dim() - 2)
        small = max(fixed.shape[2:].numel(), moving.shape[2:].numel()) < 2**31
        return 0 < patch <= getattr(cuda.extension(), most) and small and native.working_dtype(*tensors) == torch.float32

    return fits


def correlate_keypoints(fixed, moving, keypoints, centers, radius, *rest):
    out = fixed.new_empty((*keypoints.shape[:2], (2 * radius + 1) ** keypoints.shape[2]))
    _Search(fixed, moving, keypoints, centers, radius, *rest).run("search_map", out, cuda.STORED[out.dtype])
    return out


def expected_displacement(fixed, moving, keypoints, centers, *search_and_sharpness):
    *search, sharpness = search_and_sharpness
    displacement = fixed.new_empty(keypoints.shape, dtype=torch.float32)
    logsumexp = fixed.new_empty(keypoints.shape[:2], dtype=torch.float32)
    _Search(fixed, moving, keypoints, centers, *search).run("search_expected", sharpness, displacement, logsumexp)
    return displacement, logsumexp


def best_displacement(fixed, moving, keypoints, centers, *search):
    displacement = fixed.new_empty(keypoints.shape, dtype=torch.float32)
    _Search(fixed, moving, keypoints, centers, *search).run("search_best", displacement)
    return displacement


def embed_displacements(fixed, moving, keypoints, centers, basis, *search):
    s = _Search(fixed, moving, keypoints, centers, *search)
    displacements, columns = basis.shape
    wide = BLOCK_COLUMNS[columns > BLOCK_COLUMNS[0]]
    blocks = -(-s.points // BLOCK_POINTS) * -(-columns // wide)
    shares = min(max(PROGRAMS // max(blocks, 1), 1), MOST_SHARES, -(-displacements // CHUNK))
    out = torch.empty((shares, s.points, columns), dtype=torch.float32, device=s.device)
    s.run("search_embed", basis.float().contiguous(), columns, shares, out)
    return out.sum(0).view(*keypoints.shape[:2], columns).to(basis.dtype)


def kernel(function: Callable, module: str, most: str = "search_most_patch", *others: int) -> Callable:
    """function for what it serves, the kernel of that name in regkit.kernels.<module> for the rest."""
    return cuda.kernel(function, triton_kernel(module, function.__name__), serves(most, *others))
