"""scaled: the backward of every loss that computes its gradient in the forward pass.

The stored gradient times the one from above, a scalar: in place where nobody will ask for it again, so that a loss holds one gradient and
not two. Where somebody may, it is what `*` does, but in C++ on the CPU, where torch spends most of the time on page faults of the new
tensor. Not public.
"""

import torch

from regkit import reference
from regkit.ops import native
from regkit.ops.backends import register

torch.library.define("regkit::scaled", "(Tensor x, Tensor factor) -> Tensor")


@torch.library.register_fake("regkit::scaled")
def _fake(x, factor):
    return x.new_empty(x.shape)


def _cpp(x, factor):
    dtype = native.working_dtype(x)
    source = x.to(dtype).contiguous()
    out = torch.empty_like(source)
    native.function("scaled", dtype)(*map(native.address, (source, out)), float(factor), x.numel(), torch.get_num_threads())
    return out.to(x.dtype)


# On a GPU torch's multiplication is as good as any.
register("scaled", reference=reference.scaled, cpp=_cpp, triton=reference.scaled)


def chained(grad: torch.Tensor, gradient: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """grad * gradient, in dtype, for use in a backward: in the gradient's own memory where this backward is its last use.

    The gradient of a mean is small: it stays in its own dtype, the working one, until it is multiplied, so that loss scaling can save
    float16 from underflow.
    """
    # A graph that is kept may come back for the gradient; a tracer's tensors, all subclasses, are not to be written to.
    last_use = type(gradient) is torch.Tensor and not torch._C._autograd._get_current_graph_task_keep_graph()
    return (gradient.mul_(grad) if last_use else torch.ops.regkit.scaled(gradient, grad)).to(dtype)
