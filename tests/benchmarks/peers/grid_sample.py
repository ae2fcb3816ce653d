"""Warping by torch's grid_sample: normalised positions, last axis first, components last."""

import torch
import torch.nn.functional as F


def identity_grid(size: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Voxel indices (1, D, *size)."""
    axes = [torch.arange(n, dtype=like.dtype, device=like.device) for n in size]
    return torch.stack(torch.meshgrid(axes, indexing="ij"))[None]


def normalised_grid(displacement: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """Sampling positions as grid_sample wants them: [-1, 1], last axis first, components last."""
    size = displacement.shape[2:]
    positions = identity + displacement
    for d, n in enumerate(size):
        positions[:, d] = 2 * (positions[:, d] / (n - 1) - 0.5)
    return positions.movedim(1, -1)[..., list(range(len(size)))[::-1]]


def with_identity(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inputs and the identity grid, which spatial transformer layers keep."""
    u = inputs["u"]
    return inputs | {"identity": identity_grid(u.shape[2:], u)}


def warp(image: torch.Tensor, u: torch.Tensor, identity: torch.Tensor, padding: str = "zeros") -> torch.Tensor:
    """A spatial transformer layer: identity grid plus displacement, normalise, grid_sample."""
    return F.grid_sample(image, normalised_grid(u, identity), mode="bilinear", padding_mode=padding, align_corners=True)


def ready_grid(image: torch.Tensor, u: torch.Tensor) -> dict[str, torch.Tensor]:
    """In place of the displacement the normalised positions: what is left to grid_sample itself."""
    return {"image": image, "u": normalised_grid(u, identity_grid(u.shape[2:], u)).contiguous()}


def sample(image: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return F.grid_sample(image, u, align_corners=True)


def compose(u: torch.Tensor, v: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """v + u(x + v)."""
    return v + warp(u, v, identity, padding="border")


def integrate(u: torch.Tensor, identity: torch.Tensor, steps: int = 7) -> torch.Tensor:
    """Scaling and squaring, a spatial transformer layer a step."""
    u = u * 0.5**steps
    for _ in range(steps):
        u = compose(u, u, identity)
    return u


def invert(u: torch.Tensor, identity: torch.Tensor, iterations: int) -> torch.Tensor:
    """Fixed-point iteration v <- -u(y + v), a spatial transformer layer a round."""
    v = -u
    for _ in range(iterations):
        v = -warp(u, v, identity, padding="border")
    return v
