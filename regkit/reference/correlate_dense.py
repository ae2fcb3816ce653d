"""Local correlation of two feature maps in plain torch, one displacement at a time."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from regkit.reference.correlate import SSD, lattice, working_dtype


def _windows(padded: torch.Tensor, radius: int, stride: int) -> Iterator[torch.Tensor]:
    """For each displacement d, first axis slowest, the view x -> padded(x + d) of an image that `_pad` has enlarged."""
    dims, reach = padded.dim() - 2, radius * stride
    for d in lattice(radius, stride, dims, torch.device("cpu")).tolist():
        yield padded[(..., *(slice(reach + o, n - reach + o) for o, n in zip(d, padded.shape[2:])))]


def _pad(x: torch.Tensor, radius: int, stride: int) -> torch.Tensor:
    return F.pad(x, [radius * stride] * 2 * (x.dim() - 2))


def correlate_dense(a, b, radius: int, stride: int, metric: int):
    dtype = working_dtype(a, b)
    x, padded = a.to(dtype), _pad(b.to(dtype), radius, stride)
    terms = ((x - y).square() if metric == SSD else x * y for y in _windows(padded, radius, stride))
    return (torch.stack([term.sum(1) for term in terms], 1) / max(a.shape[1], 1)).to(a.dtype)


def correlate_dense_backward(grad, a, b, radius, stride, metric, need_a: bool, need_b: bool):
    dtype = working_dtype(a, b)
    x, padded = a.to(dtype), _pad(b.to(dtype), radius, stride)
    weights = grad.to(dtype) / max(a.shape[1], 1)
    grad_a, grad_padded = torch.zeros_like(x), torch.zeros_like(padded)
    for index, (y, target) in enumerate(zip(_windows(padded, radius, stride), _windows(grad_padded, radius, stride))):
        g = weights[:, index : index + 1]
        by_a, by_y = (2 * g * (x - y), -2 * g * (x - y)) if metric == SSD else (g * y, g * x)
        grad_a += by_a
        target += by_y  # what falls on the zeros outside belongs to no voxel
    grad_b = grad_padded[(..., *(slice(radius * stride, n - radius * stride) for n in padded.shape[2:]))]
    return grad_a.to(a.dtype) if need_a else a.new_empty(0), grad_b.to(b.dtype).contiguous() if need_b else b.new_empty(0)
