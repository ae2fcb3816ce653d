"""Gradients that were computed in the forward pass, where the value is a scalar: backward multiplies them by one number."""

import torch


def scaled(gradient: torch.Tensor, factor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """factor * gradient in `dtype`, for use in a backward: in the gradient's own memory where this backward is its last use.

    A fresh tensor would cost as much memory again, and on a CPU more time than the multiplication. The gradient of a mean is small: it stays
    in its own dtype until it is multiplied, so that loss scaling can save float16 from underflow.
    """
    # A graph that is kept may come back for the gradient; a tracer's tensors (all subclasses) are not to be written to.
    last_use = type(gradient) is torch.Tensor and not torch._C._autograd._get_current_graph_task_keep_graph()
    return (gradient.mul_(factor) if last_use else gradient * factor).to(dtype)
