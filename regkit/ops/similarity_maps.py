"""similarity_maps: patches around points of two images, and how alike the one's centre is to every place of the other."""

from collections.abc import Sequence

import torch

from regkit import reference
from regkit.ops import check, native
from regkit.ops.backends import register, triton_kernel
from regkit.ops.search import METRICS, voxels


def similarity_maps(
    fixed: torch.Tensor,  # (B, 1, *fixed_spatial)
    moving: torch.Tensor,  # (B, 1, *moving_spatial)
    points: torch.Tensor,  # (B, N, D), voxels
    *,
    patch_size: int = 27,
    kernel_sizes: Sequence[int] = (3, 5, 7, 9),
) -> torch.Tensor:  # (B, N, 2 + K, *patch)
    """What a similarity-steered network sees of each point: the fixed patch, the moving patch, and K cosine maps between them.

    With o over the offsets of the patch, {-P//2 .. P//2}^D, and t over those of a kernel of size s, {-s//2 .. s//2}^D:

        out[:, n, 0](o) = fixed(point_n + o),   out[:, n, 1](o) = moving(point_n + o)
        out[:, n, 2 + k](o) = sum_t F(t) M(o + t) / (|F| |M(o + .)| + 1e-6),   F(t) = fixed(point_n + t),  M(x) = moving(point_n + x)

    Norms are over the kernel's offsets; no mean is subtracted. The moving image is read beyond the patch, so maps hold up to their borders.
    patch_size and kernel_sizes are odd, for a centre. Positions are rounded to the nearest voxel, halves up (NaN: 0); samples outside an
    image take its border's value. Computed in float32 (float64 if an input is float64); the result has the fixed image's dtype.
    Differentiable once by both images, not by positions; the backward goes kernel by kernel, as correlate_keypoints.

    Source: Cao et al. 2017 (their kernel sizes are not given). Raises ValueError for shapes and options, TypeError for dtypes.
    """
    dims = check.image(fixed, "fixed")
    check.image(moving, "moving", dims)
    for name, x in (("fixed", fixed), ("moving", moving)):
        check.floating(x, name)
        if x.shape[1] != 1:
            raise ValueError(f"{name} must be an image with one channel, (B, 1, *spatial), but came as {tuple(x.shape)}")
        if min(x.shape[2:]) == 0 and points.numel():
            raise ValueError(f"{name} must have at least one voxel on every axis, but came as {tuple(x.shape)}")
    check.same("batch size", fixed=fixed.shape[0], moving=moving.shape[0])
    check.same("device", fixed=fixed.device, moving=moving.device, points=points.device)
    if points.dim() != 3 or points.shape[0] != fixed.shape[0] or points.shape[2] != dims:
        raise ValueError(f"points must be (B, N, D) = ({fixed.shape[0]}, N, {dims}), but came as {tuple(points.shape)}")
    check.odd_window(patch_size, "patch_size")
    for size in kernel_sizes:
        check.odd_window(size, "kernel_sizes")
    return torch.ops.regkit.similarity_maps(fixed, moving, voxels(points), patch_size, list(kernel_sizes))


torch.library.define(
    "regkit::similarity_maps", "(Tensor fixed, Tensor moving, Tensor points, int patch_size, int[] kernel_sizes) -> Tensor"
)


@torch.library.register_fake("regkit::similarity_maps")
def _fake(fixed, moving, points, patch_size, kernel_sizes):
    return fixed.new_empty(_shape(fixed, points, patch_size, kernel_sizes))


def _shape(fixed: torch.Tensor, points: torch.Tensor, patch_size: int, kernel_sizes: Sequence[int]) -> tuple[int, ...]:
    return *points.shape[:2], 2 + len(kernel_sizes), *[patch_size] * (fixed.dim() - 2)


def _cpp(fixed, moving, points, patch_size, kernel_sizes):
    stored = fixed.dtype if fixed.dtype == moving.dtype else native.working_dtype(fixed, moving)
    f, m, p = fixed.to(stored).contiguous(), moving.to(stored).contiguous(), points.contiguous()
    out = f.new_empty(_shape(fixed, points, patch_size, kernel_sizes))
    native.function("similarity_maps", stored)(
        *map(native.address, (f, m, p, out)), fixed.dim() - 2, points.shape[:2], native.sizes(fixed.shape[2:]),
        native.sizes(moving.shape[2:]), patch_size, kernel_sizes, torch.get_num_threads(),
    )  # fmt: skip
    return out.to(fixed.dtype)


register(
    "similarity_maps",
    reference=reference.similarity_maps,
    cpp=_cpp,
    triton=triton_kernel("similarity_maps", "similarity_maps"),
)


def _setup_context(ctx, inputs, output):
    *tensors, ctx.patch_size, ctx.kernel_sizes = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad):
    """Every map is a correlation of keypoints, and so is a patch: with an image of ones, by metric dot."""
    fixed, moving, points = ctx.saved_tensors
    need_fixed, need_moving = ctx.needs_input_grad[:2]
    half = ctx.patch_size // 2
    per_map = grad.flatten(3).unbind(2)

    def backward(g, a, b, patch_radius, metric, *needs):
        search = half, 1, patch_radius, 1, METRICS.index(metric)
        return torch.ops.regkit.correlate_keypoints_backward(g, a, b, points, points, *search, *needs)

    def of_patch(g, image):
        return backward(g, image.new_ones((image.shape[0], 1, *[1] * (image.dim() - 2))), image, 0, "dot", False, True)[1]

    grad_fixed = of_patch(per_map[0], fixed) if need_fixed else None
    grad_moving = of_patch(per_map[1], moving) if need_moving else None
    for g, size in zip(per_map[2:], ctx.kernel_sizes):
        by_fixed, by_moving = backward(g, fixed, moving, size // 2, "cosine", need_fixed, need_moving)
        grad_fixed = grad_fixed + by_fixed if need_fixed else None
        grad_moving = grad_moving + by_moving if need_moving else None
    return grad_fixed, grad_moving, None, None, None


torch.library.register_autograd("regkit::similarity_maps", _backward, setup_context=_setup_context)
