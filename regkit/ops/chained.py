"""The backward of every loss that computes its gradient in the forward pass: that gradient times the one from above, a scalar."""

import torch


def chained(grad: torch.Tensor, gradient: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """grad * gradient, in dtype: in the gradient's own memory where this backward is its last use, so that the loss holds one and not two.

    The gradient of a mean is small: it stays in its own dtype, the working one, until it is multiplied, so that loss scaling can save
    float16 from underflow.
    """
    # A graph that is kept may come back for the gradient; a tracer's tensors, all subclasses, are not to be written to.
    last_use = type(gradient) is torch.Tensor and not torch._C._autograd._get_current_graph_task_keep_graph()
    return (gradient.mul_(grad) if last_use else gradient * grad).to(dtype)
