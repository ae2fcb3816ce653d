"""One typical call of every op, and the comparison of an op with its reference: what the tests of all ops share."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from regkit import ops
from tests.ops.compare import assert_close

SHAPES = {2: (13, 37), 3: (7, 9, 21)}


@dataclass(frozen=True)
class Case:
    """function(*tensors) is differentiable by each tensor."""

    function: Callable
    tensors: tuple[torch.Tensor, ...]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def displacement(
    spatial: tuple[int, ...], batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64, size: float = 1.5
) -> torch.Tensor:
    """A rough displacement that leaves the image here and there; no sample is near a voxel centre, where the derivative jumps."""
    u = size * randn(batch, len(spatial), *spatial, seed=seed)
    return (u.floor() + 0.03 + 0.94 * (u - u.floor())).to(dtype)


def affine(spatial: tuple[int, ...], batch: int = 2, seed: int = 0) -> torch.Tensor:
    """Turned, scaled and shifted about the centre by so much that corners leave the image: (batch, D, D+1)."""
    dims = len(spatial)
    linear = torch.eye(dims, dtype=torch.float64) + 0.25 * randn(batch, dims, dims, seed=seed)
    center = (torch.tensor(spatial, dtype=torch.float64)[:, None] - 1) / 2
    return torch.cat([linear, center - linear @ center + randn(batch, dims, 1, seed=seed + 1)], 2)


def label_map(spatial: tuple[int, ...], batch: int = 2, seed: int = 0, labels: int = 4) -> torch.Tensor:
    """Labels 0 .. labels - 1 in patches of a few voxels, as in segmentations."""
    coarse = randn(batch, labels, *(n // 3 + 1 for n in spatial), seed=seed)
    return torch.nn.functional.interpolate(coarse, size=spatial, mode="nearest").argmax(1, keepdim=True).to(torch.uint8)


def cases(spatial: tuple[int, ...], batch: int = 2, dtype: torch.dtype = torch.float64, device: str = "cpu") -> dict[str, Case]:
    dims = len(spatial)
    a, b = (randn(batch, 2, *spatial, seed=seed, dtype=dtype) for seed in (1, 2))
    u, v = (displacement(spatial, batch, seed, dtype) for seed in (3, 4))
    weight = randn(batch, 1, *spatial, seed=5, dtype=dtype).abs()
    odd = randn(batch, 2, *(n + 2 for n in spatial), seed=6, dtype=dtype)  # an image of another size
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    four = randn(batch, 4, *spatial, seed=7, dtype=dtype).to(device, memory_format=last)
    larger = tuple(2 * n + 1 for n in spatial)
    keypoints, center = ((randn(batch, 5, dims, seed=seed) + 1) * (torch.tensor(spatial) / 2) for seed in (6, 7))
    basis = randn(5**dims, 7, seed=8, dtype=dtype)
    points = randn(batch, 2, dims, seed=8) * 6
    fixed_labels, moving_labels = label_map(spatial, batch, 6), label_map(tuple(n + 1 for n in spatial), batch, 7)
    a, b, u, v, weight, odd = (t.to(device) for t in (a, b, u, v, weight, odd))
    keypoints, center, basis, points = (t.to(device) for t in (keypoints, center, basis, points))
    fixed_labels, moving_labels = fixed_labels.to(device), moving_labels.to(device)
    few = a[:1, :1, :3, :8].contiguous() if dims == 3 else a[:, :1].contiguous()  # for Triton's interpreter: mind_ssc takes seconds there
    search = {"search_radius": 2, "patch_radius": 3 - dims, "center": center}
    return {
        "warp zeros": Case(lambda a, u: ops.warp(a, u, fill=0.3), (a, u)),
        "warp border": Case(lambda a, u: ops.warp(a, u, padding="border"), (a, u)),
        "warp extent": Case(lambda a, u: ops.warp(a, u, padding="extent", fill=-1.0), (a, u)),
        "warp channels last": Case(ops.warp, (four, u)),
        "lncc mean": Case(lambda a, b: ops.lncc(a, b, window=5), (a, b)),
        "lncc weighted": Case(lambda a, b: ops.lncc(a, b, window=3, weight=weight), (a, b)),
        "lncc map": Case(lambda a, b: ops.lncc(a, b, window=5, reduction="none"), (a, b)),
        "warp_lncc": Case(lambda u: ops.warp_lncc(a.to(u), odd.to(u), u, window=5, fill=0.3), (u,)),
        "warp_lncc weighted": Case(lambda u: ops.warp_lncc(a.to(u), b.to(u), u, window=3, weight=weight.to(u), padding="border"), (u,)),
        "warp_lncc recomputed": Case(
            # One channel: on GPUs a path of its own.
            lambda u: ops.warp_lncc(a[:, :1].to(u), odd[:, 1:].to(u), u, window=5, padding="extent", fill=-0.4, recompute=True),
            (u,),
        ),
        "warp_ssd": Case(lambda u: ops.warp_ssd(a.to(u), odd.to(u), u, fill=0.3), (u,)),
        "warp_ssd weighted": Case(lambda u: ops.warp_ssd(a.to(u), b.to(u), u, weight=weight.to(u), padding="border"), (u,)),
        "compose": Case(ops.compose, (u, v)),
        "integrate_velocity": Case(lambda u: ops.integrate_velocity(u, steps=3), (u,)),
        "integrate_velocity saving": Case(lambda u: ops.integrate_velocity(u, steps=2, save_steps=True), (u,)),
        "jacobian_determinant": Case(ops.jacobian_determinant, (u,)),
        "bending_energy": Case(lambda a: ops.bending_energy(a, spacing=[0.8, 1.0, 2.5][:dims]), (a,)),
        "diffusion_energy": Case(lambda a: ops.diffusion_energy(a, spacing=[0.8, 1.0, 2.5][:dims]), (a,)),
        "correlate_dense dot": Case(lambda a, b: ops.correlate_dense(a, b, radius=4 - dims), (a, b)),
        "correlate_dense ssd": Case(lambda a, b: ops.correlate_dense(a, b, radius=1, stride=2, metric="ssd"), (a, b)),
        "correlate_keypoints": Case(lambda a, b: ops.correlate_keypoints(a, b, keypoints, metric="cosine", **search), (a, b)),
        "expected_displacement": Case(lambda a, b: ops.expected_displacement(a, b, keypoints, sharpness=0.5, **search), (a, b)),
        "embed_displacements": Case(lambda a, b, e: ops.embed_displacements(a, b, keypoints, e, **search), (a, b, basis)),
        "soft_dice zeros": Case(lambda u: ops.soft_dice(fixed_labels, moving_labels, u, labels=(2, 1, 5)), (u,)),
        "soft_dice border": Case(lambda u: ops.soft_dice(fixed_labels, moving_labels, u, labels=3, padding="border", eps=0.1), (u,)),
        # Plus the image, for where few voxels make descriptors that do not depend on it, and a gradient that is rounding.
        "mind_ssc": Case(lambda m: ops.mind_ssc(m, radius=dims - 2, channels_last=dims == 3) + m, (few,)),
        "similarity_maps": Case(
            lambda a, b: ops.similarity_maps(a, b, points, patch_size=3, kernel_sizes=(3, 1)),
            (a[:, :1].contiguous(), b[:, 1:].contiguous()),
        ),
        "smooth": Case(lambda a: ops.smooth(a, side=0.3), (a,)),
        "upsample": Case(lambda a: ops.upsample(a, larger, [2.0, 1.7, 2.3][:dims], 0.4, scale=[2.0, -0.5]), (a,)),
    }


NAMES = tuple(cases((3, 4), 1))


def plain_cases(spatial: tuple[int, ...], batch: int = 2, dtype: torch.dtype = torch.float64, device: str = "cpu") -> dict[str, Case]:
    """The same for ops that are not differentiable."""
    u = displacement(spatial, batch, 3, dtype)
    a, b = (randn(batch, 2, *spatial, seed=seed, dtype=dtype) for seed in (1, 2))
    image, labels = randn(batch, 2, *spatial, seed=4).mul(9).to(torch.int16), label_map(spatial, batch)
    keypoints = (randn(batch, 5, len(spatial), seed=6) + 1) * (torch.tensor(spatial) / 2)
    matrix, larger = affine(spatial, batch), tuple(n + 2 for n in spatial)
    u, a, b, image, labels, keypoints, matrix = (t.to(device) for t in (u, a, b, image, labels, keypoints, matrix))
    return {
        "warp_affine zeros": Case(lambda a: ops.warp_affine(a, matrix, larger, fill=0.3), (a,)),
        "warp_affine border": Case(lambda a: ops.warp_affine(a, matrix, padding="border"), (a,)),
        "warp_affine extent": Case(lambda a: ops.warp_affine(a, matrix.float(), padding="extent", fill=-1.0), (a,)),
        "warp_affine_nearest": Case(lambda a: ops.warp_affine(a, matrix, larger, labels=labels)[1], (a,)),
        "warp_affine_nearest border": Case(lambda a: ops.warp_affine(a, matrix, labels=image, padding="border")[1], (a,)),
        "warp_nearest": Case(lambda u: ops.warp(image, u, mode="nearest"), (u,)),
        "warp_labels": Case(lambda u: ops.warp_labels(labels, u, mode="majority"), (u,)),
        "invert": Case(lambda u: ops.invert(0.2 * u, iterations=5), (u,)),
        "best_displacement": Case(lambda a, b: ops.best_displacement(a, b, keypoints, search_radius=2, patch_radius=1), (a, b)),
        "jacobian_summary": Case(lambda u: torch.stack(ops.jacobian_summary(u)), (u,)),
        "jacobian_summary masked": Case(lambda u: torch.stack(ops.jacobian_summary(u, mask=u[:, :1] > 0)), (u,)),
    }


def value_and_gradients(function: Callable, tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """function's value, and the gradients of a fixed functional of it: a large one for a mean, for they must be normal float16 numbers."""
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    value = function(*leaves)
    weight = randn(*value.shape, seed=9) if value.dim() else torch.tensor(500.0)
    return [value.detach(), *torch.autograd.grad(value, leaves, weight.to(value))]


def reference(function: Callable, tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """The same by the reference in float64."""
    with ops.backend("reference"):
        return value_and_gradients(function, tuple(t.double() for t in tensors))


def assert_same(name: str, got: list[torch.Tensor], want: list[torch.Tensor], tolerance: float) -> None:
    for what, x, y in zip(["value"] + [f"gradient {i}" for i in range(len(want) - 1)], got, want, strict=True):
        assert_close(f"{name}, {what}", x.cpu(), y.cpu(), tolerance)


def assert_like_reference(name: str, function: Callable, tensors: tuple[torch.Tensor, ...], tolerance: float) -> None:
    assert_same(name, value_and_gradients(function, tensors), reference(function, tensors), tolerance)
