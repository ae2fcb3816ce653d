"""FireANTs' fused CUDA kernels (github.com/rohitrango/FireANTs: fireants, fireants_fused_ops), called where they are installed or come as
source (source.py)."""

import torch

from tests.benchmarks.case import Outputs


def lncc(a: torch.Tensor, b: torch.Tensor, window: int, eps: float) -> dict:
    """For `call_lncc`: its loss with the exact gradient rather than its default approximation."""
    from fireants.losses.fusedcc import FusedLocalNormalizedCrossCorrelationLoss

    dims = a.dim() - 2  # the loss multiplies both of its constants by the window's voxels
    loss = FusedLocalNormalizedCrossCorrelationLoss(
        spatial_dims=dims, kernel_size=window, smooth_nr=0.0, smooth_dr=eps / window**dims, use_ants_gradient=False
    )
    return {"a": a, "b": b, "loss": loss}


def call_lncc(a: torch.Tensor, b: torch.Tensor, loss: torch.nn.Module) -> torch.Tensor:
    return -loss(a, b)


def exact_scale(outputs: Outputs, window: int) -> Outputs:
    """Its gradient of a mean is too large by voxels / window^D."""
    value, *gradients = outputs
    return value, *(g * (window ** (g.dim() - 2) / g.numel()) for g in gradients)


def normalised_displacement(image: torch.Tensor, u: torch.Tensor) -> dict[str, torch.Tensor]:
    """Its displacements: [-1, 1] spans the image, last axis first, components last."""
    dims = u.shape[1]
    scaled = torch.stack([u[:, d] * (2 / (u.shape[2 + d] - 1)) for d in reversed(range(dims))], -1)
    return {"image": image, "u": scaled.contiguous()}


def warp(image: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The identity grid is implicit in its sampler too."""
    from fireants.interpolator import fused_grid_sample

    sampler = fused_grid_sample.fused_grid_sampler_3d if image.dim() == 5 else fused_grid_sample.fused_grid_sampler_2d
    return sampler(image, affine=None, grid=u, mode="bilinear", padding_mode="zeros", align_corners=True, is_displacement=True)
