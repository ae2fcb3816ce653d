"""correlate_keypoints: how alike the patch around each keypoint is to the patches at displaced positions of the moving image."""

import torch

from regkit import reference
from regkit.ops import check, native
from regkit.ops.backends import register

METRICS = ("ssd", "dot", "cosine")


def correlate_keypoints(
    fixed_features: torch.Tensor,  # (B, C, *fixed_spatial)
    moving_features: torch.Tensor,  # (B, C, *moving_spatial)
    keypoints: torch.Tensor,  # (B, N, D), voxels of the fixed features
    *,
    search_radius: int,
    stride: int = 1,
    patch_radius: int = 0,
    patch_stride: int = 1,
    metric: str = "ssd",
    center: torch.Tensor | None = None,  # (B, N, D), voxels of the moving features
) -> torch.Tensor:  # (B, N, (2 search_radius + 1)^D)
    """Similarity of the fixed patch at each keypoint to the moving patches at every displacement d of a search cube.

    d runs over stride * {-search_radius .. search_radius}^D, first axis slowest; p over the P offsets of the patch,
    patch_stride * {-patch_radius .. patch_radius}^D. With F = fixed(keypoint + p) and M = moving(center + d + p), both (C, P):

        ssd     sum over channels, mean over p, of (F - M)^2        (smaller is more alike)
        dot     sum over channels, mean over p, of F M
        cosine  sum F M / (|F| |M| + 1e-6), sums and norms over channels and patch

    center: where the search cube of each keypoint lies in the moving image; the keypoint itself by default.
    Positions are rounded to the nearest voxel, halves up (NaN: 0). Samples outside an image take its border's value. Computed in float32
    (float64 if an input is float64); the result has the fixed features' dtype. Differentiable once by both features, not by positions.
    Forward needs no memory but the result; the backward of cosine needs two more tensors of that size.

    Source: the dissimilarity map of Hansen & Heinrich 2020 (times their alpha), GraphRegNet, corrField.
    Raises ValueError for shapes and options, TypeError for dtypes.
    """
    dims = check.image(fixed_features, "fixed_features")
    check.image(moving_features, "moving_features", dims)
    check.floating(fixed_features, "fixed_features")
    check.floating(moving_features, "moving_features")
    check.same("batch and channels", fixed_features=tuple(fixed_features.shape[:2]), moving_features=tuple(moving_features.shape[:2]))
    check.same("device", fixed_features=fixed_features.device, moving_features=moving_features.device, keypoints=keypoints.device)
    center = keypoints if center is None else center
    for positions, name in ((keypoints, "keypoints"), (center, "center")):
        if positions.dim() != 3 or positions.shape[0] != fixed_features.shape[0] or positions.shape[2] != dims:
            raise ValueError(f"{name} must be (B, N, D) = ({fixed_features.shape[0]}, N, {dims}), but came as {tuple(positions.shape)}")
    check.same("number of positions", keypoints=keypoints.shape[1], center=center.shape[1])
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
    return torch.ops.regkit.correlate_keypoints(
        fixed_features, moving_features, _voxels(keypoints), _voxels(center),
        search_radius, stride, patch_radius, patch_stride, check.choice(metric, "metric", METRICS),
    )  # fmt: skip


def _voxels(positions: torch.Tensor) -> torch.Tensor:
    """Nearest voxels as int64, kept within 2^30 so that offsets to them cannot overflow."""
    if positions.is_floating_point():
        positions = (positions.double() + 0.5).floor().nan_to_num(0.0, posinf=2.0**30, neginf=-(2.0**30))
    return positions.clamp(-(2**30), 2**30).to(torch.int64)


_SEARCH = "int search_radius, int stride, int patch_radius, int patch_stride, int metric"
torch.library.define("regkit::correlate_keypoints", f"(Tensor fixed, Tensor moving, Tensor keypoints, Tensor centers, {_SEARCH}) -> Tensor")
torch.library.define(
    "regkit::correlate_keypoints_backward",
    f"(Tensor grad, Tensor fixed, Tensor moving, Tensor keypoints, Tensor centers, {_SEARCH}, bool need_fixed, bool need_moving)"
    " -> (Tensor, Tensor)",
)


@torch.library.register_fake("regkit::correlate_keypoints")
def _fake(fixed, moving, keypoints, centers, search_radius, stride, patch_radius, patch_stride, metric):
    return fixed.new_empty(_shape(fixed, keypoints, search_radius))


@torch.library.register_fake("regkit::correlate_keypoints_backward")
def _fake_backward(
    grad, fixed, moving, keypoints, centers, search_radius, stride, patch_radius, patch_stride, metric, need_fixed, need_moving
):  # fmt: skip
    return fixed.new_empty(fixed.shape if need_fixed else 0), moving.new_empty(moving.shape if need_moving else 0)


def _shape(fixed: torch.Tensor, keypoints: torch.Tensor, search_radius: int) -> tuple[int, ...]:
    return *keypoints.shape[:2], (2 * search_radius + 1) ** (fixed.dim() - 2)


def _arguments(fixed, moving, keypoints, search_radius, stride, patch_radius, patch_stride, metric) -> tuple:
    """What every launcher takes after its addresses."""
    dims = fixed.dim() - 2
    radii = [native.sizes((radius,) * dims, missing=0) for radius in (search_radius, patch_radius)]
    counts = (fixed.shape[0], fixed.shape[1], keypoints.shape[1])
    spatial = native.sizes(fixed.shape[2:]), native.sizes(moving.shape[2:])
    return dims, counts, *spatial, *radii, stride, patch_stride, metric, torch.get_num_threads()


def _inputs(fixed, moving, keypoints, centers) -> tuple[torch.Tensor, ...]:
    """Contiguous inputs; features of two dtypes are taken to the working dtype."""
    if fixed.dtype != moving.dtype:
        dtype = native.working_dtype(fixed, moving)
        fixed, moving = fixed.to(dtype), moving.to(dtype)
    return fixed.contiguous(), moving.contiguous(), keypoints.contiguous(), centers.contiguous()


def _cpp(fixed, moving, keypoints, centers, *search):
    f, m, k, c = _inputs(fixed, moving, keypoints, centers)
    out = f.new_empty(_shape(fixed, keypoints, search[0]))
    native.function("correlate", f.dtype)(*map(native.address, (f, m, k, c, out)), *_arguments(f, m, k, *search))
    return out.to(fixed.dtype)


def _cpp_backward(grad, fixed, moving, keypoints, centers, *search_and_needs):
    *search, need_fixed, need_moving = search_and_needs
    inputs = _inputs(fixed, moving, keypoints, centers)
    arguments = _arguments(*inputs[:3], *search)
    stored, dtype = inputs[0].dtype, native.working_dtype(fixed, moving)
    alpha, beta, gamma = grad.to(dtype).contiguous(), None, None
    if METRICS[search[-1]] == "cosine":
        g, alpha, beta, gamma = alpha, torch.empty_like(alpha), torch.empty_like(alpha), alpha.new_empty(alpha.shape[:2])
        native.function("correlate_cosine_terms", stored)(*map(native.address, (*inputs, g, alpha, beta, gamma)), *arguments)
    grad_fixed, grad_moving = fixed.new_empty(0), moving.new_empty(0)
    if need_fixed:
        out = alpha.new_empty(fixed.shape)
        native.function("correlate_grad_fixed", stored)(*map(native.address, (*inputs, alpha, gamma, out)), *arguments)
        grad_fixed = out.to(fixed.dtype)
    if need_moving:
        out = alpha.new_empty(moving.shape)
        native.function("correlate_grad_moving", stored)(*map(native.address, (*inputs, alpha, beta, out)), *arguments)
        grad_moving = out.to(moving.dtype)
    return grad_fixed, grad_moving


register("correlate_keypoints", reference=reference.correlate_keypoints, cpp=_cpp)
register("correlate_keypoints_backward", reference=reference.correlate_keypoints_backward, cpp=_cpp_backward)


def _setup_context(ctx, inputs, output):
    ctx.search = inputs[4:]
    ctx.save_for_backward(*inputs[:4])


def _backward(ctx, grad):
    need_fixed, need_moving = ctx.needs_input_grad[:2]
    grad_fixed, grad_moving = torch.ops.regkit.correlate_keypoints_backward(grad, *ctx.saved_tensors, *ctx.search, need_fixed, need_moving)
    return grad_fixed if need_fixed else None, grad_moving if need_moving else None, *[None] * 7


torch.library.register_autograd("regkit::correlate_keypoints", _backward, setup_context=_setup_context)
