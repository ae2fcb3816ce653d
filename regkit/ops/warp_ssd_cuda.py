"""warp_ssd by the kernel of csrc/cuda/warp_ssd.cu: value and gradient in one launch; of float32 and halves."""

import torch

from regkit.kernels.mean import mean_over
from regkit.ops import cuda, native
from regkit.ops.warped import stored


def serves(fixed, moving, displacement, *_) -> bool:
    """Whether the kernel can do it: float64 is Triton's."""
    return native.working_dtype(fixed, moving, displacement) == torch.float32


def warp_ssd(fixed, moving, displacement, weight, padding, fill, need_gradient):
    f, m = stored(fixed, moving, torch.float32)
    u = displacement.float().contiguous()
    w, divisor, scale = mean_over(fixed, weight, torch.float32)
    gradient = torch.empty(u.shape if need_gradient else 0, dtype=torch.float32, device=u.device)
    geometry = u.shape[1], *f.shape[:2], native.sizes(m.shape[2:]), native.sizes(u.shape[2:])
    partials = torch.zeros(cuda.extension().warp_ssd_blocks(*geometry), dtype=torch.float32, device=u.device)
    into = gradient if need_gradient else None
    cuda.run("warp_ssd", f, m, cuda.STORED[f.dtype], u, w, scale, into, partials, *geometry, padding, fill, device=u.device)
    return (partials.sum(dtype=torch.float64) / divisor).float(), gradient
