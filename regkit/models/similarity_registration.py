"""Registration by the similarity-steered CNN (Cao et al. 2017): displacements at a few places, a spline through them, and all of it again.

At 0.9 % of the voxels, drawn by the slope of the fixed image (active points), the CNN tells where the middle of the patch has gone.
Thin-plate splines make a dense field of them. The moving image is warped by it, and what is left is found in the same way and composed:
so motion may be longer than what the CNN can tell at once.
"""

from collections.abc import Sequence

import torch
from torch import nn

from regkit import ops
from regkit.features.active_points import active_points, importance
from regkit.features.histogram import matched
from regkit.models.similarity_cnn import SimilarityCNN
from regkit.registration.local_tps import local_thin_plate_spline
from regkit.registration.prepare import FOREGROUND

SEED = 0  # of the places: the same scans give the same field


def as_seen(fixed: torch.Tensor, moving: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images of one shape, as the CNN sees them: 0 in the background, the moving one's grey values in the fixed one's distribution.

    A background that was resampled is not 0, but has tails of smoothed edges down to the smallest numbers: their products are below what
    processors take in their stride, and the maps of such patches take six times as long.
    """
    fixed, moving = (torch.where(image > FOREGROUND, image, 0.0) for image in (fixed, moving))
    return fixed, matched(moving, fixed)


class SimilarityRegistration(nn.Module):
    """A SimilarityCNN with all that makes a displacement field of it.

    width, longest, patch: of SimilarityCNN. kernel_sizes: of the maps, odd, in voxels; none for a network without the cue. The paper has
    four and doesn't say which.
    share: of the image's voxels, how many are told by the CNN. iterations: times that all is done.
    batch: patches at once. neighbours, spacing, smoothing: of the spline (regkit.registration.local_tps); the paper's is a spline of all
    80,000 points at once, 51 GB.
    bfloat16: whether the CNN computes in it.

    Raises ValueError for numbers out of range.
    """

    dims = 3
    multiple = 1

    def __init__(
        self,
        width: float = 1.0,
        longest: float = 7.0,
        kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        *,
        patch: int = 27,
        share: float = 0.009,
        iterations: int = 2,
        batch: int = 64,
        neighbours: int = 64,
        spacing: float = 8.0,
        smoothing: float = 0.0,
        bfloat16: bool = False,
    ):
        super().__init__()
        if not 0 < share <= 1 or min(iterations, batch) < 1 or any(size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise ValueError(
                "share must be above 0 and at most 1, iterations and batch at least 1, kernel_sizes odd, but came as "
                f"{share}, {iterations}, {batch} and {tuple(kernel_sizes)}"
            )
        self.cnn = SimilarityCNN(len(kernel_sizes), longest, width, patch)
        self.kernel_sizes, self.share, self.iterations, self.batch = tuple(kernel_sizes), share, iterations, batch
        self.neighbours, self.spacing, self.smoothing, self.bfloat16 = neighbours, spacing, smoothing, bfloat16

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """The displacement (B, 3, *spatial) in voxels; images (B, 1, *spatial), intensities in 0..1, 0 in the background.

        The moving image's grey values are brought to the fixed one's distribution. No gradients: the CNN learns from patches.
        Raises ValueError for other shapes, and where a fixed image shows fewer than 4 places to tell a displacement of.
        """
        if fixed.dim() != 5 or fixed.shape[1] != 1 or fixed.shape != moving.shape:
            raise ValueError(
                f"images must be (B, 1, *spatial) in 3-D and of one shape, but are {tuple(fixed.shape)} and {tuple(moving.shape)}"
            )
        with torch.no_grad():
            pairs = zip(fixed.float().split(1), moving.float().split(1))
            return torch.cat([self._register(*as_seen(*pair)) for pair in pairs])

    def _register(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        weight = importance(fixed, fixed > FOREGROUND).cpu()  # points are drawn on the CPU: the same there as on any GPU
        draws, u, warped = torch.Generator().manual_seed(SEED), None, moving
        for _ in range(self.iterations):
            points = active_points(weight, round(self.share * fixed.numel()), draws).to(fixed.device)
            if len(points) < 4:
                raise ValueError(f"the fixed image has an outline at {len(points)} places, and a spline needs 4")
            found = self.displacements(fixed, warped, points)
            v = self.dense(points, found, fixed.shape[2:])
            u = v if u is None else ops.compose(u, v)
            warped = ops.warp(moving, u)
        return u

    def displacements(self, fixed: torch.Tensor, moving: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """(N, 3) float32 in voxels at the points (N, 3), voxels of the fixed image (1, 1, *spatial)."""
        found = []
        for part in points.float().split(self.batch):
            seen = ops.similarity_maps(fixed, moving, part[None], patch_size=self.cnn.patch, kernel_sizes=self.kernel_sizes)[0]
            with torch.autocast(fixed.device.type, torch.bfloat16, enabled=self.bfloat16):
                found.append(self.cnn(seen[:, :1], seen[:, 1:2], seen[:, 2:]))
        return torch.cat(found)

    def dense(self, points: torch.Tensor, values: torch.Tensor, spatial: Sequence[int]) -> torch.Tensor:
        """The field (1, 3, *spatial) of the values (N, 3) at the points (N, 3)."""
        return local_thin_plate_spline(
            points.float(), values, tuple(spatial), neighbours=self.neighbours, spacing=self.spacing, smoothing=self.smoothing
        )
