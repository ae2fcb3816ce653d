"""The registry: every benchmark of `make bench`. To add a peer, add an entry to a case's providers; to add an op, add an OpCase."""

import torch
import torch.nn.functional as F

from regkit import ops
from tests.benchmarks import peers
from tests.benchmarks.case import REGKIT, OpCase, Outputs, Run, Size

# Image sizes by the data set they are usual in. `make bench` takes the first; --data takes others.
SIZES: dict[str, Size] = {"brain": (160, 192, 224), "lung": (192, 192, 208), "hippocampus": (48, 64, 48), "x-ray": (256, 256)}
WINDOW, EPS = 9, 1e-5
KEYPOINTS, CHANNELS, SEARCH_RADIUS, PATCH_RADIUS = 2048, 12, 10, 0


# --- inputs: smooth as scans and displacements are, with some noise on the images ---------------------------------------------------------


def smooth(channels: int, size: Size, generator: torch.Generator, coarseness: int = 16) -> torch.Tensor:
    coarse = torch.randn(1, channels, *(max(2, n // coarseness) for n in size), generator=generator)
    return F.interpolate(coarse, size=size, mode="trilinear" if len(size) == 3 else "bilinear", align_corners=True)


def image(size: Size, generator: torch.Generator) -> torch.Tensor:
    return smooth(1, size, generator) + 0.1 * torch.randn(1, 1, *size, generator=generator)


def displacement(size: Size, generator: torch.Generator) -> torch.Tensor:
    return 3 * smooth(len(size), size, generator)


def image_and_displacement(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {"image": image(size, generator), "u": displacement(size, generator), "weight": torch.rand(1, 1, *size, generator=generator)}


def two_images(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {"a": image(size, generator), "b": image(size, generator)}


def one_displacement(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {"u": displacement(size, generator)}


def two_displacements(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {"u": displacement(size, generator), "v": displacement(size, generator)}


def coarse_displacement(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A displacement at a quarter of the resolution, and a gradient of the fine one."""
    coarse = torch.randn(1, len(size), *(max(2, n // 4) for n in size), generator=generator)
    return {"coarse": coarse, "weight": torch.rand(1, len(size), *size, generator=generator)}


def corner_factors(coarse: torch.Tensor, fine: torch.Tensor) -> list[float]:
    """Per axis, the factor between two grids whose corners are aligned."""
    return [(n - 1) / (c - 1) for n, c in zip(fine.shape[2:], coarse.shape[2:])]


def features_and_keypoints(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Feature maps at stride 2 of an image of this size, and keypoints anywhere in them."""
    half = tuple(n // 2 for n in size)
    fixed, moving = (torch.rand(1, CHANNELS, *half, generator=generator) for _ in range(2))
    keypoints = torch.stack([torch.randint(0, n, (1, KEYPOINTS), generator=generator) for n in half], -1)
    return {"fixed": fixed, "moving": moving, "keypoints": keypoints}


# --- providers: each does its set-up, then returns the run that is timed ------------------------------------------------------------------


def warp_ours(image, u, weight) -> Run:
    return lambda: (ops.warp(image, u),)


def warp_composite(image, u, weight) -> Run:
    identity = peers.identity_grid(u.shape[2:], u)
    return lambda: (peers.composite_warp(image, u, identity),)


def warp_ready_grid(image, u, weight) -> Run:
    grid = peers.normalised_grid(u, peers.identity_grid(u.shape[2:], u)).contiguous()
    return lambda: (F.grid_sample(image, grid, align_corners=True),)


def with_gradient(value: torch.Tensor, by: torch.Tensor | tuple[torch.Tensor, ...], weight: torch.Tensor | None = None) -> Outputs:
    return (value.detach(), *torch.autograd.grad(value, by, weight))


def warp_gradient_ours(image, u, weight) -> Run:
    u.requires_grad_()
    return lambda: with_gradient(ops.warp(image, u), u, weight)


def warp_gradient_composite(image, u, weight) -> Run:
    u.requires_grad_()
    identity = peers.identity_grid(u.shape[2:], u)
    return lambda: with_gradient(peers.composite_warp(image, u, identity), u, weight)


def warp_gradient_ready_grid(image, u, weight) -> Run:
    grid = peers.normalised_grid(u, peers.identity_grid(u.shape[2:], u)).contiguous().requires_grad_()
    return lambda: with_gradient(F.grid_sample(image, grid, align_corners=True), grid, weight)


def per_voxel(outputs: Outputs) -> Outputs:
    """A gradient by a normalised grid (last axis first, components last) as one by a displacement in voxels."""
    value, gradient = outputs
    per_axis = [2 / (n - 1) for n in value.shape[2:]]
    return value, torch.stack([gradient[..., -1 - d] * scale for d, scale in enumerate(per_axis)], 1)


def lncc_ours(a, b) -> Run:
    a.requires_grad_()
    return lambda: with_gradient(ops.lncc(a, b, window=WINDOW, eps=EPS), a)


def lncc_separable(a, b) -> Run:
    a.requires_grad_()
    return lambda: with_gradient(peers.separable_lncc(a, b, WINDOW, EPS), a)


def lncc_monai(a, b) -> Run:
    a.requires_grad_()
    loss = peers.monai_lncc(a.dim() - 2, WINDOW, EPS)
    return lambda: with_gradient(loss(a, b), a)


def lncc_both_ours(a, b) -> Run:
    a.requires_grad_(), b.requires_grad_()
    return lambda: with_gradient(ops.lncc(a, b, window=WINDOW, eps=EPS), (a, b))


def lncc_both_separable(a, b) -> Run:
    a.requires_grad_(), b.requires_grad_()
    return lambda: with_gradient(peers.separable_lncc(a, b, WINDOW, EPS), (a, b))


def correlate_ours(fixed, moving, keypoints) -> Run:
    options = {"search_radius": SEARCH_RADIUS, "stride": 1, "patch_radius": PATCH_RADIUS, "metric": "ssd"}
    return lambda: (ops.correlate_keypoints(fixed, moving, keypoints, **options).flatten(),)


def correlate_convolution(fixed, moving, keypoints) -> Run:
    from tests.benchmarks.peer_correlate import grouped_convolution_ssd

    return lambda: (grouped_convolution_ssd(fixed, moving, keypoints, SEARCH_RADIUS, PATCH_RADIUS).flatten(),)


def mind_ours(a, b) -> Run:
    return lambda: (ops.mind_ssc(a, radius=1, dilation=2),)


def mind_convolution(a, b) -> Run:
    return lambda: (peers.convolution_mind_ssc(a, radius=1, dilation=2),)


def any_order_of_channels(outputs: Outputs) -> Outputs:
    """The pairs of MIND-SSC have no agreed order: sorted, two orders give the same."""
    return (outputs[0].sort(1).values,)


def compose_ours(u, v) -> Run:
    return lambda: (ops.compose(u, v),)


def compose_composite(u, v) -> Run:
    identity = peers.identity_grid(u.shape[2:], u)
    return lambda: (peers.composite_compose(u, v, identity),)


def diffusion_gradient_ours(u) -> Run:
    u.requires_grad_()
    return lambda: with_gradient(ops.diffusion_energy(u), u)


def diffusion_gradient_slices(u) -> Run:
    u.requires_grad_()
    return lambda: with_gradient(peers.sliced_diffusion(u), u)


def upsample_ours(coarse, weight) -> Run:
    coarse.requires_grad_()
    return lambda: with_gradient(ops.upsample(coarse, weight.shape[2:], corner_factors(coarse, weight)), coarse, weight)


def upsample_interpolate(coarse, weight) -> Run:
    coarse.requires_grad_()
    options = {"size": weight.shape[2:], "mode": "trilinear" if weight.dim() == 5 else "bilinear", "align_corners": True}
    return lambda: with_gradient(F.interpolate(coarse, **options), coarse, weight)


COMPOSITE, READY_GRID, SEPARABLE, MONAI, CONVOLUTION = "composite", "grid_sample", "separable conv", "MONAI", "grouped conv"

CASES = [
    OpCase(
        name="warp forward",
        op="warp",
        inputs=image_and_displacement,
        providers={REGKIT: warp_ours, COMPOSITE: warp_composite, READY_GRID: warp_ready_grid},
        bytes_per_unit=20,  # displacement 12, image 4, output 4
        flops_per_unit=46,
        targets={COMPOSITE: 5, READY_GRID: 2.5},
    ),
    OpCase(
        name="warp forward+backward (displacement)",
        op="warp",
        inputs=image_and_displacement,
        providers={REGKIT: warp_gradient_ours, COMPOSITE: warp_gradient_composite, READY_GRID: warp_gradient_ready_grid},
        bytes_per_unit=52,  # forward 20; displacement 12, image 4, gradient 4, output 12
        flops_per_unit=106,
        tolerance=1e-2,  # at a cell's border the gradient jumps, and the peers round positions differently
        targets={COMPOSITE: 6},
        comparable={READY_GRID: per_voxel},
    ),
    OpCase(
        name=f"lncc window {WINDOW} forward+backward",
        op="lncc",
        inputs=two_images,
        providers={REGKIT: lncc_ours, SEPARABLE: lncc_separable, MONAI: lncc_monai},
        bytes_per_unit=12,  # two images, one gradient
        flops_per_unit=85,
        targets={SEPARABLE: 10, MONAI: 50},
        memory_target=6,
    ),
    OpCase(
        name=f"lncc window {WINDOW} forward+backward (both images)",
        op="lncc",
        inputs=two_images,
        providers={REGKIT: lncc_both_ours, SEPARABLE: lncc_both_separable},
        bytes_per_unit=16,
        flops_per_unit=110,
        targets={SEPARABLE: 10},
        memory_target=6,
    ),
    OpCase(
        name=f"keypoint cost volume {KEYPOINTS} x {2 * SEARCH_RADIUS + 1}^3",
        op="correlate_keypoints",
        inputs=features_and_keypoints,
        providers={REGKIT: correlate_ours, CONVOLUTION: correlate_convolution},
        bytes_per_unit=4,
        flops_per_unit=3 * CHANNELS,
        unit="cost",
        units=lambda size: KEYPOINTS * (2 * SEARCH_RADIUS + 1) ** len(size),
        targets={CONVOLUTION: 10},
        memory_target=1.1,
        dims=(3,),
    ),
    OpCase(
        name="mind_ssc radius 1 dilation 2",
        op="mind_ssc",
        inputs=two_images,
        providers={REGKIT: mind_ours, CONVOLUTION: mind_convolution},
        bytes_per_unit=52,  # image 4, 12 channels out
        flops_per_unit=190,
        comparable={REGKIT: any_order_of_channels, CONVOLUTION: any_order_of_channels},
        dims=(3,),
    ),
    OpCase(
        name="compose",
        op="compose",
        inputs=two_displacements,
        providers={REGKIT: compose_ours, COMPOSITE: compose_composite},
        bytes_per_unit=36,
        flops_per_unit=81,
    ),
    OpCase(
        name="jacobian_determinant",
        op="jacobian_determinant",
        inputs=one_displacement,
        providers={
            REGKIT: lambda u: lambda: (ops.jacobian_determinant(u),),
            "torch.gradient + det": lambda u: lambda: (peers.gradient_jacobian_determinant(u),),
            "torch.gradient": lambda u: lambda: (peers.expanded_jacobian_determinant(u),),
        },
        bytes_per_unit=16,
        flops_per_unit=38,
    ),
    OpCase(
        name="diffusion_energy forward+backward",
        op="diffusion_energy",
        inputs=one_displacement,
        providers={REGKIT: diffusion_gradient_ours, "torch slices": diffusion_gradient_slices},
        bytes_per_unit=24,
        flops_per_unit=40,
    ),
    OpCase(
        name="upsample by 4 forward+backward",
        op="upsample",
        inputs=coarse_displacement,
        providers={REGKIT: upsample_ours, "F.interpolate": upsample_interpolate},
        bytes_per_unit=24,  # out 12, gradient 12; the coarse field is small beside them
        flops_per_unit=48,
    ),
]


def built(case: OpCase) -> bool:
    return hasattr(ops, case.op)


def small_size(dims: int) -> Size:
    """An image in which every case fits and that is quick, for tests."""
    return (24, 28, 26)[:dims]


def volume_bytes(case: OpCase, size: Size) -> int:
    return 4 * case.units(size)
