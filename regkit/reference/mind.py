"""MIND-SSC in plain torch: shifted differences, box means with replicated borders, normalisation. Formulas: csrc/core/mind.h."""

import torch

NEIGHBOURS = ((-1, 0, 0), (0, 0, -1), (0, -1, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0))
LEAST = 1e-30  # keeps a constant image finite: its descriptors are 1


def pairs(dims: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The pairs of neighbours that each channel compares: those at distance sqrt(2) of each other."""
    neighbours = [s[3 - dims :] for s in NEIGHBOURS if dims == 3 or s[0] == 0]
    return [(a, b) for i, a in enumerate(neighbours) for b in neighbours[:i] if sum((p - q) ** 2 for p, q in zip(a, b)) == 2]


def shifted_index(n: int, offset: int, device: torch.device) -> torch.Tensor:
    return (torch.arange(n, device=device) + offset).clamp(0, n - 1)


def shift(x: torch.Tensor, offset: tuple[int, ...]) -> torch.Tensor:
    """x(voxel + offset), borders replicated; x is (B, *spatial)."""
    for axis, o in enumerate(offset, start=1):
        if o:
            x = x.index_select(axis, shifted_index(x.shape[axis], o, x.device))
    return x


def shift_adjoint(g: torch.Tensor, offset: tuple[int, ...]) -> torch.Tensor:
    for axis, o in enumerate(offset, start=1):
        if o:
            g = torch.zeros_like(g).index_add(axis, shifted_index(g.shape[axis], o, g.device), g)
    return g


def box_mean(x: torch.Tensor, radius: int, operation=shift) -> torch.Tensor:
    """Mean over (2 radius + 1)^D voxels, borders replicated; with shift_adjoint, the transpose of that."""
    for axis in range(x.dim() - 1):
        offsets = [tuple(o if a == axis else 0 for a in range(x.dim() - 1)) for o in range(-radius, radius + 1)]
        x = sum(operation(x, o) for o in offsets) / (2 * radius + 1)
    return x


def scaled(offset: tuple[int, ...], dilation: int) -> tuple[int, ...]:
    return tuple(dilation * o for o in offset)


def _normalised(x: torch.Tensor, radius: int, dilation: int):
    """x (B, *spatial) -> D - min D (B, channels, *spatial), index of the minimum, V before and after clamping (B, 1, *spatial)."""
    distances = [box_mean((shift(x, scaled(a, dilation)) - shift(x, scaled(b, dilation))).square(), radius) for a, b in pairs(x.dim() - 1)]
    distances = torch.stack(distances, 1)
    minimum, at = distances.min(1, keepdim=True) if distances.numel() else (distances[:, :1], None)
    q = distances - minimum
    raw = q.mean(1, keepdim=True)
    mean = raw.mean(tuple(range(1, raw.dim())), keepdim=True)
    return q, at, raw, torch.clamp(raw, (1e-3 * mean).clamp_min(LEAST), (1e3 * mean).clamp_min(LEAST))


def pooled(x: torch.Tensor, pool: int) -> torch.Tensor:
    """Means over blocks of pool^D voxels of (B, C, *spatial)."""
    for axis in range(2, x.dim()):
        blocks = x.shape[axis] // pool
        x = x.narrow(axis, 0, blocks * pool).unflatten(axis, (blocks, pool)).mean(axis + 1)
    return x


def pooled_adjoint(g: torch.Tensor, pool: int, spatial: torch.Size) -> torch.Tensor:
    """The transpose of `pooled`."""
    out = g.new_zeros((*g.shape[:2], *spatial))
    part = out
    for axis in range(2, g.dim()):
        part = part.narrow(axis, 0, g.shape[axis] * pool)
        g = g.repeat_interleave(pool, axis) / pool
    part.copy_(g)
    return out


def mind_ssc(image: torch.Tensor, radius: int, dilation: int, pool: int, dtype: torch.dtype, channels_last: bool) -> torch.Tensor:
    x = image[:, 0].to(torch.float64 if image.dtype == torch.float64 else torch.float32)
    q, _, _, variance = _normalised(x, radius, dilation)
    memory_format = torch.contiguous_format
    if channels_last:
        memory_format = torch.channels_last_3d if image.dim() == 5 else torch.channels_last
    return pooled(torch.exp(-q / variance), pool).to(dtype).contiguous(memory_format=memory_format)


def mind_ssc_backward(grad: torch.Tensor, image: torch.Tensor, radius: int, dilation: int, pool: int) -> torch.Tensor:
    x = image[:, 0].to(torch.float64 if image.dtype == torch.float64 else torch.float32)
    if x.numel() == 0:
        return torch.zeros_like(image)
    q, at, raw, variance = _normalised(x, radius, dilation)
    pull = (
        pooled_adjoint(grad.to(x.dtype), pool, image.shape[2:]) * torch.exp(-q / variance) / variance
    )  # -d sum(grad * mind) / dq at fixed V
    by_variance = (pull * q).sum(1, keepdim=True) / variance
    grad_q = -pull + torch.where(raw == variance, by_variance, 0.0) / q.shape[1]
    grad_distances = grad_q.scatter_add(1, at, -grad_q.sum(1, keepdim=True))
    grad_x = torch.zeros_like(x)
    for c, (a, b) in enumerate(pairs(x.dim() - 1)):
        a, b = scaled(a, dilation), scaled(b, dilation)
        weight = 2 * (shift(x, a) - shift(x, b)) * box_mean(grad_distances[:, c], radius, shift_adjoint)
        grad_x += shift_adjoint(weight, a) - shift_adjoint(weight, b)
    return grad_x[:, None].to(image.dtype)
