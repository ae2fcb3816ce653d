"""embed_displacements: each keypoint's similarity map times a basis, without writing the map."""

import torch

from regkit import reference
from regkit.ops import check, native, search, search_cuda
from regkit.ops.backends import register, triton_kernel


def embed_displacements(
    fixed_features: torch.Tensor,  # (B, C, *fixed_spatial)
    moving_features: torch.Tensor,  # (B, C, *moving_spatial)
    keypoints: torch.Tensor,  # (B, N, D), voxels of the fixed features
    basis: torch.Tensor,  # (L, P), L = (2 search_radius + 1)^D
    *,
    search_radius: int,
    stride: int = 1,
    patch_radius: int = 0,
    patch_stride: int = 1,
    metric: str = "ssd",
    center: torch.Tensor | None = None,  # (B, N, D), voxels of the moving features
) -> torch.Tensor:  # (B, N, P)
    """The similarities of each keypoint over the search cube, projected: correlate_keypoints(...) @ basis, for a PCA or a learned basis.

    The similarities, (B, N, L) of them, are never in memory: forward keeps those of a few keypoints, backward computes them again.
    Differentiable once by both features and by the basis, not by positions. All is computed in float32 (float64 if an input is float64);
    the result has the basis' dtype, so that features of half precision give descriptors of full precision with a float32 basis.

    A centred PCA, (map - mean) @ basis, is this minus `mean @ basis`.

    Source: the displacement embedding of Hansen & Heinrich 2020.
    Raises ValueError for shapes and options, TypeError for dtypes.
    """
    tensors, options = search.checked(
        fixed_features, moving_features, keypoints, center, search_radius, stride, patch_radius, patch_stride, metric
    )
    check.floating(basis, "basis")
    check.same("device", fixed_features=fixed_features.device, basis=basis.device)
    if basis.dim() != 2 or basis.shape[0] != search.count(fixed_features, search_radius):
        raise ValueError(
            f"basis must be (L, P) with L = (2 search_radius + 1)^D = {search.count(fixed_features, search_radius)},"
            f" but came as {tuple(basis.shape)}"
        )
    return torch.ops.regkit.embed_displacements(*tensors, basis, *options)


torch.library.define("regkit::embed_displacements", f"({search.TENSORS}, Tensor basis, {search.SEARCH}) -> Tensor")
torch.library.define(
    "regkit::embed_displacements_backward",
    f"(Tensor grad, {search.TENSORS}, Tensor basis, {search.SEARCH}, bool need_fixed, bool need_moving, bool need_basis)"
    " -> (Tensor, Tensor, Tensor)",
)


@torch.library.register_fake("regkit::embed_displacements")
def _fake(fixed, moving, keypoints, centers, basis, search_radius, stride, patch_radius, patch_stride, metric):
    return basis.new_empty((*keypoints.shape[:2], basis.shape[1]))


@torch.library.register_fake("regkit::embed_displacements_backward")
def _fake_backward(
    grad, fixed, moving, keypoints, centers, basis,
    search_radius, stride, patch_radius, patch_stride, metric, need_fixed, need_moving, need_basis,
):  # fmt: skip
    wanted = ((fixed, need_fixed), (moving, need_moving), (basis, need_basis))
    return tuple(x.new_empty(x.shape if need else 0) for x, need in wanted)


def _launch(fixed, moving, keypoints, centers, basis, options) -> tuple[search.Launch, torch.Tensor]:
    """The launch, and the basis as it takes it."""
    wide = native.working_dtype(fixed, moving, basis) == torch.float64
    launch = search.Launch(fixed, moving, keypoints, centers, options, wide)
    return launch, basis.to(launch.dtype).contiguous()


def _cpp(fixed, moving, keypoints, centers, basis, *options):
    launch, b = _launch(fixed, moving, keypoints, centers, basis, options)
    out = b.new_empty((*keypoints.shape[:2], basis.shape[1]))
    launch("embed_displacements", b, basis.shape[1], out)
    return out.to(basis.dtype)


def _cpp_backward(grad, fixed, moving, keypoints, centers, basis, *options_and_needs):
    *options, need_fixed, need_moving, need_basis = options_and_needs
    launch, b = _launch(fixed, moving, keypoints, centers, basis, options)
    gradients = launch.gradients((fixed, need_fixed), (moving, need_moving), (basis, need_basis))
    launch("embed_displacements_backward", grad.to(launch.dtype).contiguous(), b, basis.shape[1], *gradients)
    return search.results(gradients, fixed, moving, basis)


register(
    "embed_displacements", reference=reference.embed_displacements, cpp=_cpp,
    cuda=search_cuda.kernel(search_cuda.embed_displacements, "embed_displacements", "search_most_embedded_patch", 4),
    triton=triton_kernel("embed_displacements", "embed_displacements"),
)  # fmt: skip
register(
    "embed_displacements_backward", reference=reference.embed_displacements_backward, cpp=_cpp_backward,
    cuda=triton_kernel("embed_displacements", "embed_displacements_backward"),
    triton=triton_kernel("embed_displacements", "embed_displacements_backward"),
)  # fmt: skip


def _setup_context(ctx, inputs, output):
    ctx.options = inputs[5:]
    ctx.save_for_backward(*inputs[:5])


def _backward(ctx, grad):
    needs = ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[4]
    gradients = torch.ops.regkit.embed_displacements_backward(grad, *ctx.saved_tensors, *ctx.options, *needs)
    by_fixed, by_moving, by_basis = (gradient if need else None for gradient, need in zip(gradients, needs))
    return by_fixed, by_moving, None, None, by_basis, *[None] * 5


torch.library.register_autograd("regkit::embed_displacements", _backward, setup_context=_setup_context)
