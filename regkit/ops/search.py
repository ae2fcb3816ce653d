"""What the ops on a search cube share: correlate_keypoints, which gives its map, and those that make something of it without writing it.

Their torch.ops take (fixed, moving, keypoints, centers, ..., search_radius, stride, patch_radius, patch_stride, metric): positions as int64
voxels (B, N, D), the metric as its index.
"""

import math

import torch

from regkit.ops import check, native

METRICS = ("ssd", "dot", "cosine")
TENSORS = "Tensor fixed, Tensor moving, Tensor keypoints, Tensor centers"
SEARCH = "int search_radius, int stride, int patch_radius, int patch_stride, int metric"


def checked(
    fixed_features, moving_features, keypoints, center, search_radius, stride, patch_radius, patch_stride, metric
) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
    """Checks what a public function was given -> (fixed, moving, keypoints, centers), (search_radius, ..., metric) for its torch.op.

    The two positions are one tensor where no center was given.
    """
    dims = check.image(fixed_features, "fixed_features")
    check.image(moving_features, "moving_features", dims)
    check.floating(fixed_features, "fixed_features")
    check.floating(moving_features, "moving_features")
    check.same("batch and channels", fixed_features=tuple(fixed_features.shape[:2]), moving_features=tuple(moving_features.shape[:2]))
    check.same("device", fixed_features=fixed_features.device, moving_features=moving_features.device, keypoints=keypoints.device)
    for positions, name in ((keypoints, "keypoints"), *([] if center is None else [(center, "center")])):
        if positions.dim() != 3 or positions.shape[0] != fixed_features.shape[0] or positions.shape[2] != dims:
            raise ValueError(f"{name} must be (B, N, D) = ({fixed_features.shape[0]}, N, {dims}), but came as {tuple(positions.shape)}")
    if center is not None:
        check.same("number of positions", keypoints=keypoints.shape[1], center=center.shape[1])
        check.same("device", keypoints=keypoints.device, center=center.device)
    for value, name, least in (
        (search_radius, "search_radius", 0),
        (patch_radius, "patch_radius", 0),
        (stride, "stride", 1),
        (patch_stride, "patch_stride", 1),
    ):
        check.at_least(value, name, least)
    for features, name in ((fixed_features, "fixed_features"), (moving_features, "moving_features")):
        if min(features.shape[2:]) == 0 and keypoints.numel():
            raise ValueError(f"{name} must have at least one voxel on every axis, but came as {tuple(features.shape)}")
    at = voxels(keypoints)
    return (
        (fixed_features, moving_features, at, at if center is None else voxels(center)),
        (search_radius, stride, patch_radius, patch_stride, check.choice(metric, "metric", METRICS)),
    )


def voxels(positions: torch.Tensor) -> torch.Tensor:
    """Nearest voxels as int64, kept within 2^30 so that offsets to them cannot overflow."""
    if positions.is_floating_point():
        positions = (positions.double() + 0.5).floor().nan_to_num(0.0, posinf=2.0**30, neginf=-(2.0**30))
    return positions.clamp(-(2**30), 2**30).to(torch.int64)


def count(fixed: torch.Tensor, search_radius: int) -> int:
    """Displacements of the cube."""
    return (2 * search_radius + 1) ** (fixed.dim() - 2)


class Launch:
    """Calls C++ launchers on a search cube; keeps what their addresses point to.

    Features of two dtypes are taken to the working dtype, all to float64 where `wide` is asked for.
    """

    def __init__(self, fixed, moving, keypoints, centers, options, wide: bool = False):
        if wide or fixed.dtype != moving.dtype:
            dtype = torch.float64 if wide else native.working_dtype(fixed, moving)
            fixed, moving = fixed.to(dtype), moving.to(dtype)
        self.stored, self.dtype = fixed.dtype, native.working_dtype(fixed)
        search_radius, stride, patch_radius, patch_stride, metric = options
        dims, sizes = fixed.dim() - 2, (native.sizes(fixed.shape[2:]), native.sizes(moving.shape[2:]))
        radii = [native.sizes((radius,) * dims, missing=0) for radius in (search_radius, patch_radius)]
        (fixed, fixed_last), (moving, moving_last) = _laid_out(fixed, moving, keypoints.shape[1] * count(fixed, search_radius))
        self._tensors = fixed, moving, keypoints.contiguous(), centers.contiguous()
        fixed_at, moving_at, *positions_at = map(native.address, self._tensors)
        self._arguments = (
            (fixed_at, fixed_last), (moving_at, moving_last), *positions_at, dims, (*fixed.shape[:2], keypoints.shape[1]),
            *sizes, *radii, stride, patch_stride, metric, torch.get_num_threads(),
        )  # fmt: skip

    def __call__(self, name: str, *arguments: torch.Tensor | float | None) -> None:
        """Runs launcher `name`; tensors (contiguous ones) go as addresses, None as a null pointer."""
        addresses = (native.address(a) if a is None or isinstance(a, torch.Tensor) else a for a in arguments)
        native.function(name, self.stored)(self._arguments, *addresses)

    def gradients(self, *wanted: tuple[torch.Tensor, bool]) -> list[torch.Tensor | None]:
        """Room for the gradient by each tensor that needs one."""
        return [tensor.new_empty(tensor.shape, dtype=self.dtype) if need else None for tensor, need in wanted]


def results(gradients: list[torch.Tensor | None], *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Gradients in the dtypes of their tensors; empty ones where there are none."""
    return tuple(tensor.new_empty(0) if g is None else g.to(tensor.dtype) for g, tensor in zip(gradients, tensors))


def _laid_out(fixed: torch.Tensor, moving: torch.Tensor, displacements: int) -> list[tuple[torch.Tensor, bool]]:
    """The features with their channels first, or last where they lie so and reading them so is cheaper than a copy; and whether last.

    A search reads runs of voxels of one channel, which lie apart where channels are last: that costs as much as the copy once all its
    displacements read about as many voxels as there are. The patches of the keypoints themselves are few.
    """

    def lies_last(features: torch.Tensor) -> bool:
        return not features.is_contiguous() and features.movedim(1, -1).is_contiguous()

    last = lies_last(fixed), lies_last(moving) and displacements < math.prod(moving.shape[2:])
    return [(x, True) if keep else (x.contiguous(), False) for x, keep in zip((fixed, moving), last)]
