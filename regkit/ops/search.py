"""What the ops on a search cube share: correlate_keypoints, which gives its map, and those that make something of it without writing it.

Their torch.ops take (fixed, moving, keypoints, centers, ..., search_radius, stride, patch_radius, patch_stride, metric): positions as int64
voxels (B, N, D), the metric as its index.
"""

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


def inputs(fixed, moving, keypoints, centers) -> tuple[torch.Tensor, ...]:
    """Contiguous inputs for a C++ launcher; features of two dtypes are taken to the working dtype."""
    if fixed.dtype != moving.dtype:
        dtype = native.working_dtype(fixed, moving)
        fixed, moving = fixed.to(dtype), moving.to(dtype)
    return fixed.contiguous(), moving.contiguous(), keypoints.contiguous(), centers.contiguous()


def arguments(fixed, moving, keypoints, search_radius, stride, patch_radius, patch_stride, metric) -> tuple:
    """What every C++ launcher takes after its addresses."""
    dims = fixed.dim() - 2
    radii = [native.sizes((radius,) * dims, missing=0) for radius in (search_radius, patch_radius)]
    counts = (fixed.shape[0], fixed.shape[1], keypoints.shape[1])
    spatial = native.sizes(fixed.shape[2:]), native.sizes(moving.shape[2:])
    return dims, counts, *spatial, *radii, stride, patch_stride, metric, torch.get_num_threads()
