"""Local NCC by the kernels of csrc/cuda/lncc.cu: their space, their groups of volumes."""

from dataclasses import dataclass

import torch

from regkit.kernels.mean import mean_over
from regkit.ops import cuda, native

GROUP = 1 << 22  # voxels: the adjoints of a group stay in L2
WINDOWS = range(3, 16, 2)  # that there are kernels for


def serves(a: torch.Tensor, b: torch.Tensor, window: int) -> bool:
    """Whether these kernels can do it: other windows, float64 and images of two dtypes are Triton's."""
    return a.dtype == b.dtype and a.dtype in cuda.STORED and window in WINDOWS


@dataclass(frozen=True)
class Warp:
    """Images a = moving(x + u(x)) of one channel, and the gradient by u; all contiguous float32."""

    moving: torch.Tensor
    u: torch.Tensor
    by_u: torch.Tensor
    padding: int
    fill: float

    def gradient(self, volumes: slice, *call, device: torch.device) -> None:
        """The gradient of some volumes, from what `lncc_gradient` takes."""
        moving, u, by_u = (t[volumes] for t in (self.moving, self.u, self.by_u))
        geometry = u.shape[1], native.sizes(moving.shape[2:]), self.padding, self.fill
        cuda.run("lncc_gradient_of_warp", *call, moving, u, by_u, *geometry, device=device)


def sweep(
    a, b, *, window, eps, weight=None, per_weight=1, scale=None, ncc_map=None, grad_a=None, grad_b=None, warp: Warp | None = None
) -> torch.Tensor:
    """Partial sums of weight * ncc; fills the map and the gradients (times the tensor `scale`) that are given, or that of the warp a.

    Images, map and gradients are contiguous (B, C, *spatial); weight (float32) has one volume for `per_weight` of them.
    """
    if a.numel() == 0:
        return a.new_zeros(1, dtype=torch.float32)
    if grad_a is None and grad_b is not None:  # the images in each other's place: the same sums
        a, b, grad_a, grad_b = b, a, grad_b, None
    size, volumes = native.sizes(a.shape[2:]), a.shape[0] * a.shape[1]
    windows = (window, window if a.dim() == 5 else 1)
    x, y = (t.view(volumes, *size) for t in (a, b))
    shifts = [_shifts(t) for t in (x, y)]
    group = min(volumes, max(1, GROUP // x[0].numel()))
    kinds = 5 if grad_a is not None and grad_b is not None else 3 if grad_a is not None or warp else 0
    adjoints = a.new_empty(kinds, group, *size, dtype=torch.float32) if kinds else None
    targets = [None if t is None else t.view(volumes, *size) for t in (ncc_map, grad_a, grad_b)]
    partials = []
    for first in range(0, volumes, group):
        n = min(group, volumes - first)
        part = slice(first, first + n)
        map_of, *gradients = (None if t is None else t[part] for t in targets)
        counts = (n, first, per_weight)
        images = x[part], y[part], cuda.STORED[a.dtype], *(s[part] for s in shifts), weight, counts, size, windows, eps
        partials.append(a.new_empty(cuda.extension().lncc_blocks(counts, size, windows), dtype=torch.float32))
        cuda.run("lncc_windows", *images, partials[-1], map_of, adjoints, kinds == 5, device=a.device)
        if warp:
            warp.gradient(part, *images, adjoints, scale, device=a.device)
        elif kinds:
            stored = cuda.STORED[gradients[0].dtype]
            cuda.run("lncc_gradient", *images, adjoints, kinds == 5, scale, *gradients, stored, device=a.device)
    return torch.cat(partials)


def _shifts(x: torch.Tensor) -> torch.Tensor:
    """About the mean of each of the volumes (V, i, j, k): of some planes, since it need not be exact; 0 where NaN hides it."""
    some = x[:, :: max(1, x.shape[1] // 16)] if x.shape[1] > 1 else x[:, :, :: max(1, x.shape[2] // 16)]
    return some.mean((1, 2, 3), dtype=torch.float32).nan_to_num(0.0, 0.0, 0.0)


def lncc(a, b, weight, window, eps, need_a, need_b):
    grads = [a.new_empty(a.shape if need else 0, dtype=torch.float32) for need in (need_a, need_b)]
    w, divisor, scale = mean_over(a, weight, torch.float32)
    partials = sweep(
        a.contiguous(), b.contiguous(), window=window, eps=eps, weight=w, per_weight=a.shape[1], scale=scale,
        grad_a=grads[0] if need_a else None, grad_b=grads[1] if need_b else None,
    )  # fmt: skip
    return (partials.sum(dtype=torch.float64) / divisor).float(), *grads


def lncc_map(a, b, window, eps):
    out = a.new_empty(a.shape)
    sweep(a.contiguous(), b.contiguous(), window=window, eps=eps, ncc_map=out)
    return out


def lncc_map_backward(grad, a, b, window, eps, need_a, need_b):
    grads = [x.new_empty(x.shape if need else 0) for x, need in ((a, need_a), (b, need_b))]
    sweep(
        a.contiguous(), b.contiguous(), window=window, eps=eps, weight=grad.float().contiguous(), scale=a.new_ones((), dtype=torch.float32),
        grad_a=grads[0] if need_a else None, grad_b=grads[1] if need_b else None,
    )  # fmt: skip
    return tuple(grads)
