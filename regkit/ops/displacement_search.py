"""expected_displacement and best_displacement: where each keypoint's patch lies in the moving image, without writing the similarity map."""

import math

import torch

from regkit import reference
from regkit.ops import native, search, search_cuda
from regkit.ops.backends import register, triton_kernel


def expected_displacement(
    fixed_features: torch.Tensor,  # (B, C, *fixed_spatial)
    moving_features: torch.Tensor,  # (B, C, *moving_spatial)
    keypoints: torch.Tensor,  # (B, N, D), voxels of the fixed features
    *,
    sharpness: float,
    search_radius: int,
    stride: int = 1,
    patch_radius: int = 0,
    patch_stride: int = 1,
    metric: str = "ssd",
    center: torch.Tensor | None = None,  # (B, N, D), voxels of the moving features
) -> torch.Tensor:  # (B, N, D), voxels
    """Mean displacement of each keypoint under the soft-min (ssd) or soft-max (dot, cosine) of its similarities over the search cube.

        expected = sum_d w_d d + (center - keypoint),      w = softmax over d of -sharpness * ssd_d, or sharpness * dot_d, cosine_d

    with the displacements d and similarities of correlate_keypoints for the same arguments; center and keypoint are the nearest voxels. So
    `moving(keypoint + expected)` is what `fixed(keypoint)` looks like. sharpness is the inverse of a temperature: 0 gives the centre, a
    large one the best displacement.
    The similarities, (B, N, (2 search_radius + 1)^D) of them, are never in memory: forward keeps those of a few keypoints, backward
    computes them again. Differentiable once by both features, not by positions and sharpness. The result is float32 (float64 if an input
    is float64).

    Source: the soft-min decoding of Hansen & Heinrich 2020 and of PDD-Net (Heinrich 2019).
    Raises ValueError for shapes and options, TypeError for dtypes.
    """
    if not 0 <= sharpness < math.inf:
        raise ValueError(f"sharpness must be a finite number of at least 0, but came as {sharpness}")
    tensors, options = search.checked(
        fixed_features, moving_features, keypoints, center, search_radius, stride, patch_radius, patch_stride, metric
    )
    displacement, _ = torch.ops.regkit.expected_displacement(*tensors, *options, sharpness)
    return displacement if center is None else displacement + (tensors[3] - tensors[2])


def best_displacement(
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
) -> torch.Tensor:  # (B, N, D), whole voxels
    """The displacement of each keypoint that is most alike over the search cube: the least ssd, or the largest dot or cosine.

        best = argmin_d ssd_d, or argmax_d dot_d, cosine_d, + (center - keypoint)

    with the displacements d and similarities of correlate_keypoints for the same arguments; center and keypoint are the nearest voxels. Of
    equally good displacements the shortest d is taken, so that a keypoint in a constant region stays where it is; of equally short ones the
    first. Where a similarity is NaN, so is the displacement. The similarities are compared in float32 (float64 if an input is float64),
    which is the result's dtype, and are never in memory but for a few keypoints. Not differentiable: see expected_displacement.

    Raises ValueError for shapes and options, TypeError for dtypes.
    """
    tensors, options = search.checked(
        fixed_features, moving_features, keypoints, center, search_radius, stride, patch_radius, patch_stride, metric
    )
    tensors = [tensor.detach() for tensor in tensors]  # the op has no gradient
    displacement = torch.ops.regkit.best_displacement(*tensors, *options)
    return displacement if center is None else displacement + (tensors[3] - tensors[2])


# Displacements are relative to the centre of the cube here.
torch.library.define(
    "regkit::expected_displacement", f"({search.TENSORS}, {search.SEARCH}, float sharpness) -> (Tensor displacement, Tensor logsumexp)"
)
torch.library.define(
    "regkit::expected_displacement_backward",
    f"(Tensor grad, Tensor displacement, Tensor logsumexp, {search.TENSORS}, {search.SEARCH}, float sharpness,"
    " bool need_fixed, bool need_moving) -> (Tensor, Tensor)",
)
torch.library.define("regkit::best_displacement", f"({search.TENSORS}, {search.SEARCH}) -> Tensor")


@torch.library.register_fake("regkit::expected_displacement")
def _fake(fixed, moving, keypoints, centers, search_radius, stride, patch_radius, patch_stride, metric, sharpness):
    dtype = native.working_dtype(fixed, moving)
    return fixed.new_empty(keypoints.shape, dtype=dtype), fixed.new_empty(keypoints.shape[:2], dtype=dtype)


@torch.library.register_fake("regkit::expected_displacement_backward")
def _fake_backward(
    grad, displacement, logsumexp, fixed, moving, keypoints, centers,
    search_radius, stride, patch_radius, patch_stride, metric, sharpness, need_fixed, need_moving,
):  # fmt: skip
    return fixed.new_empty(fixed.shape if need_fixed else 0), moving.new_empty(moving.shape if need_moving else 0)


@torch.library.register_fake("regkit::best_displacement")
def _fake_best(fixed, moving, keypoints, centers, search_radius, stride, patch_radius, patch_stride, metric):
    return fixed.new_empty(keypoints.shape, dtype=native.working_dtype(fixed, moving))


def _cpp(fixed, moving, keypoints, centers, *options_and_sharpness):
    *options, sharpness = options_and_sharpness
    launch = search.Launch(fixed, moving, keypoints, centers, options)
    displacement, logsumexp = (fixed.new_empty(shape, dtype=launch.dtype) for shape in (keypoints.shape, keypoints.shape[:2]))
    launch("expected_displacement", sharpness, displacement, logsumexp)
    return displacement, logsumexp


def _cpp_backward(grad, displacement, logsumexp, fixed, moving, keypoints, centers, *rest):
    *options, sharpness, need_fixed, need_moving = rest
    launch = search.Launch(fixed, moving, keypoints, centers, options)
    gradients = launch.gradients((fixed, need_fixed), (moving, need_moving))
    saved = (x.to(launch.dtype).contiguous() for x in (grad, displacement, logsumexp))
    launch("expected_displacement_backward", sharpness, *saved, *gradients)
    return search.results(gradients, fixed, moving)


def _cpp_best(fixed, moving, keypoints, centers, *options):
    launch = search.Launch(fixed, moving, keypoints, centers, options)
    displacement = fixed.new_empty(keypoints.shape, dtype=launch.dtype)
    launch("best_displacement", displacement)
    return displacement


register(
    "expected_displacement", reference=reference.expected_displacement, cpp=_cpp,
    cuda=search_cuda.kernel(search_cuda.expected_displacement, "displacement_search"),
    triton=triton_kernel("displacement_search", "expected_displacement"),
)  # fmt: skip
register(
    "expected_displacement_backward", reference=reference.expected_displacement_backward, cpp=_cpp_backward,
    cuda=triton_kernel("displacement_search", "expected_displacement_backward"),
    triton=triton_kernel("displacement_search", "expected_displacement_backward"),
)  # fmt: skip
register(
    "best_displacement", reference=reference.best_displacement, cpp=_cpp_best,
    cuda=search_cuda.kernel(search_cuda.best_displacement, "displacement_search"),
    triton=triton_kernel("displacement_search", "best_displacement"),
)  # fmt: skip


def _setup_context(ctx, inputs, output):
    ctx.options = inputs[4:]
    ctx.save_for_backward(*output, *inputs[:4])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad, _):
    need_fixed, need_moving = ctx.needs_input_grad[:2]
    grad_fixed, grad_moving = torch.ops.regkit.expected_displacement_backward(
        grad, *ctx.saved_tensors, *ctx.options, need_fixed, need_moving
    )
    return grad_fixed if need_fixed else None, grad_moving if need_moving else None, *[None] * 8


torch.library.register_autograd("regkit::expected_displacement", _backward, setup_context=_setup_context)
