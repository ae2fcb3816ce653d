"""correlate_keypoints: how alike the patch around each keypoint is to the patches at displaced positions of the moving image."""

import torch

from regkit import reference
from regkit.ops import search, search_cuda
from regkit.ops.backends import register, triton_kernel


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
    Neither forward nor backward needs memory of the result's size but the result and its gradient.

    Source: the dissimilarity map of Hansen & Heinrich 2020 (times their alpha), GraphRegNet, corrField.
    Raises ValueError for shapes and options, TypeError for dtypes.
    """
    tensors, options = search.checked(
        fixed_features, moving_features, keypoints, center, search_radius, stride, patch_radius, patch_stride, metric
    )
    return torch.ops.regkit.correlate_keypoints(*tensors, *options)


torch.library.define("regkit::correlate_keypoints", f"({search.TENSORS}, {search.SEARCH}) -> Tensor")
torch.library.define(
    "regkit::correlate_keypoints_backward",
    f"(Tensor grad, {search.TENSORS}, {search.SEARCH}, bool need_fixed, bool need_moving) -> (Tensor, Tensor)",
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
    return *keypoints.shape[:2], search.count(fixed, search_radius)


def _cpp(fixed, moving, keypoints, centers, *options):
    launch = search.Launch(fixed, moving, keypoints, centers, options)
    out = fixed.new_empty(_shape(fixed, keypoints, options[0]), dtype=launch.stored)
    launch("correlate", out)
    return out.to(fixed.dtype)


def _cpp_backward(grad, fixed, moving, keypoints, centers, *options_and_needs):
    *options, need_fixed, need_moving = options_and_needs
    launch = search.Launch(fixed, moving, keypoints, centers, options)
    gradients = launch.gradients((fixed, need_fixed), (moving, need_moving))
    launch("correlate_backward", grad.to(launch.dtype).contiguous(), *gradients)
    return search.results(gradients, fixed, moving)


register(
    "correlate_keypoints", reference=reference.correlate_keypoints, cpp=_cpp,
    cuda=search_cuda.kernel(search_cuda.correlate_keypoints, "correlate"),
    triton=triton_kernel("correlate", "correlate_keypoints"),
)  # fmt: skip
register(
    "correlate_keypoints_backward", reference=reference.correlate_keypoints_backward, cpp=_cpp_backward,
    cuda=triton_kernel("correlate", "correlate_keypoints_backward"),
    triton=triton_kernel("correlate", "correlate_keypoints_backward"),
)  # fmt: skip


def _setup_context(ctx, inputs, output):
    ctx.options = inputs[4:]
    ctx.save_for_backward(*inputs[:4])


def _backward(ctx, grad):
    need_fixed, need_moving = ctx.needs_input_grad[:2]
    grad_fixed, grad_moving = torch.ops.regkit.correlate_keypoints_backward(grad, *ctx.saved_tensors, *ctx.options, need_fixed, need_moving)
    return grad_fixed if need_fixed else None, grad_moving if need_moving else None, *[None] * 7


torch.library.register_autograd("regkit::correlate_keypoints", _backward, setup_context=_setup_context)
