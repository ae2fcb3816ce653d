"""MONAI's layers."""

import warnings

import torch


def lncc(a: torch.Tensor, b: torch.Tensor, window: int, eps: float) -> dict:
    """For `call_lncc`: MONAI's loss as the mean squared local NCC."""
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    loss = LocalNormalizedCrossCorrelationLoss(
        spatial_dims=a.dim() - 2, kernel_size=window, kernel_type="rectangular", smooth_nr=0.0, smooth_dr=eps
    )
    return {"a": a, "b": b, "loss": loss}


def warp(image: torch.Tensor, u: torch.Tensor) -> dict:
    """For `call_warp`: MONAI's warping block."""
    from monai.networks.blocks import Warp

    with warnings.catch_warnings(action="ignore"):  # that it uses torch's grid_sample
        return {"image": image, "u": u, "block": Warp(mode="bilinear", padding_mode="zeros")}


def call_warp(image: torch.Tensor, u: torch.Tensor, block: torch.nn.Module) -> torch.Tensor:
    return block(image, u)


def call_lncc(a: torch.Tensor, b: torch.Tensor, loss: torch.nn.Module) -> torch.Tensor:
    return -loss(a, b)


def diffusion(u: torch.Tensor) -> dict:
    """For `call_on_displacement`: MONAI's diffusion loss, of central differences inside the border."""
    from monai.losses import DiffusionLoss

    return {"u": u, "loss": DiffusionLoss()}


def bending(u: torch.Tensor) -> dict:
    """For `call_on_displacement`: MONAI's bending energy, its mixed differences over three voxels an axis, inside the border."""
    from monai.losses import BendingEnergyLoss

    return {"u": u, "loss": BendingEnergyLoss()}


def call_on_displacement(u: torch.Tensor, loss: torch.nn.Module) -> torch.Tensor:
    return loss(u)
