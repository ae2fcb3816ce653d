"""fused-lncc (github.com/minsuk00/fused-lncc), called where it is installed or comes as source (source.py): a CUDA kernel,
3-D, gradient to the first image."""

import torch


def lncc(a: torch.Tensor, b: torch.Tensor, window: int, eps: float) -> torch.Tensor:
    """Mean squared local NCC; its loss is one minus that."""
    from fused_lncc import fused_lncc_loss

    return 1 - fused_lncc_loss(a, b, kernel_size=window, smooth_dr=eps)
