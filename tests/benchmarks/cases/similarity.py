"""lncc, warp_lncc, similarity_maps: append an OpCase to CASES (see __init__.py)."""

from dataclasses import replace

import torch

from regkit import ops
from tests.benchmarks.case import OpCase, Peer, Size
from tests.benchmarks.cases import inputs
from tests.benchmarks.peers import correlate, fireants, fused_lncc, grid_sample, lncc, monai, voxelmorph

WINDOW, EPS = 9, 1e-5
SEPARABLE, MONAI, VOXELMORPH = "separable conv", "MONAI", "VoxelMorph's formula"
TWO_OPS, COMPOSITE = "regkit's two ops", "grid_sample + separable conv"
FUSED_LNCC, FIREANTS = "fused-lncc", "FireANTs"
CONVOLUTION = "grouped conv"
GPU = ("cuda",)
CHANNELS = 12  # of mind_ssc in 3-D


def peers_of(window: int) -> dict[str, Peer]:
    """Of lncc with its gradient to the first image. VoxelMorph's dense convolutions take minutes on a CPU."""
    return {
        SEPARABLE: Peer(lambda a, b: lncc.separable(a, b, window, EPS), compile=True),
        MONAI: Peer(monai.call_lncc, prepare=lambda a, b: monai.lncc(a, b, window, EPS), needs="monai"),
        VOXELMORPH: Peer(lambda a, b: voxelmorph.ncc(a, b, window, EPS), devices=GPU),
        FUSED_LNCC: Peer(lambda a, b: fused_lncc.lncc(a, b, window, EPS), needs="fused_lncc", devices=GPU, dims=(3,)),
        FIREANTS: Peer(
            fireants.call_lncc,
            prepare=lambda a, b: fireants.lncc(a, b, window, EPS),
            comparable=lambda outputs: fireants.exact_scale(outputs, window),
            needs="fireants_fused_ops",
            devices=GPU,
        ),
    }


PATCH, KERNELS = 27, (3, 5, 7, 9)


def points_of(size: Size) -> int:
    """How many points similarity_maps takes; few in images so small that they are for tests alone."""
    return 512 if size.voxels > 1 << 20 else 5


def images_and_points(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    images = {name: inputs.image(size, generator) for name in ("fixed", "moving")}
    points = [torch.randint(n, (size.batch, points_of(size)), generator=generator) for n in size.spatial]
    return {**images, "points": torch.stack(points, -1)}


LNCC = OpCase(
    name=f"lncc window {WINDOW} forward+backward",
    op="lncc",
    inputs=inputs.two_images,
    gradient=("a",),
    regkit=lambda a, b: ops.lncc(a, b, window=WINDOW, eps=EPS),
    peers=peers_of(WINDOW),
    units=lambda size: size.voxels * size.channels,
    bytes_per_unit=12,  # two images, one gradient
    flops_per_unit=lambda size: 85 if size.dims == 3 else 65,
    targets={SEPARABLE: 12, MONAI: 60},
    memory_target=6,
)


def features_warped_to_others(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Descriptors as mind_ssc gives them, from 0 to 1."""
    shape = size.batch, CHANNELS, *size.spatial
    fixed, moving = (torch.rand(shape, generator=generator).half() for _ in range(2))
    return {"fixed": fixed, "moving": moving, "u": inputs.displacement(size, generator)}


def image_warped_to_another(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {"fixed": inputs.image(size, generator), "moving": inputs.image(size, generator), "u": inputs.displacement(size, generator)}


WARP_LNCC = OpCase(
    name=f"warp_lncc window {WINDOW} forward+backward",
    op="warp_lncc",
    inputs=image_warped_to_another,
    gradient=("u",),
    regkit=lambda fixed, moving, u: ops.warp_lncc(fixed, moving, u, window=WINDOW, eps=EPS),
    peers={
        TWO_OPS: Peer(lambda fixed, moving, u: ops.lncc(fixed, ops.warp(moving, u), window=WINDOW, eps=EPS)),
        COMPOSITE: Peer(
            lambda fixed, moving, u, identity: lncc.separable(fixed, grid_sample.warp(moving, u, identity), WINDOW, EPS),
            prepare=grid_sample.with_identity,
            compile=True,
        ),
    },
    units=lambda size: size.voxels * size.channels,
    bytes_per_unit=lambda size: 8 + 8 * size.dims / size.channels,  # two images, displacement, its gradient
    flops_per_unit=lambda size: 190 if size.dims == 3 else 130,
    tolerance=1e-2,  # at a cell's border the gradient jumps, and the peers round positions differently
    targets={TWO_OPS: 1.3},
    memory_target=5,  # the gradient is three
)


def two_ops_squared(fixed, moving, u):
    return (ops.warp(moving, u) - fixed).square().mean()


CASES = [
    LNCC,
    WARP_LNCC,
    OpCase(
        name=f"warp_ssd {CHANNELS} channels of float16, forward+backward",
        op="warp_ssd",
        inputs=features_warped_to_others,
        gradient=("u",),
        regkit=lambda fixed, moving, u: ops.warp_ssd(fixed, moving, u),
        peers={
            TWO_OPS: Peer(lambda fixed, moving, u: two_ops_squared(fixed.float(), moving.float(), u)),
            "grid_sample in float32": Peer(
                lambda fixed, moving, u, identity: (grid_sample.warp(moving.float(), u, identity) - fixed.float()).square().mean(),
                prepare=grid_sample.with_identity,
                compile=True,
            ),
        },
        units=lambda size: size.voxels,
        bytes_per_unit=lambda size: 4 * CHANNELS + 8 * size.dims,  # two images, displacement, its gradient
        flops_per_unit=lambda size: 45 * CHANNELS if size.dims == 3 else 25 * CHANNELS,
        tolerance=1e-2,  # at a cell's border the gradient jumps, and the peers round positions differently
        targets={TWO_OPS: 2},
        dims=(3,),
        sizes=("small",),
    ),
    replace(
        WARP_LNCC,
        name=f"warp_lncc window {WINDOW} forward+backward, recomputed",
        regkit=lambda fixed, moving, u: ops.warp_lncc(fixed, moving, u, window=WINDOW, eps=EPS, recompute=True),
        peers={TWO_OPS: WARP_LNCC.peers[TWO_OPS]},
        targets={},
    ),
    replace(
        LNCC,
        name=f"lncc window {WINDOW} forward+backward (both images)",
        gradient=("a", "b"),
        peers={name: LNCC.peers[name] for name in (SEPARABLE, FIREANTS)},
        bytes_per_unit=16,
        flops_per_unit=lambda size: 110 if size.dims == 3 else 85,
        targets={SEPARABLE: 12},
    ),
    replace(
        LNCC,
        name=f"lncc window {WINDOW} forward+backward, bfloat16",
        dtype=torch.bfloat16,  # in float16 the gradient of a mean over so many voxels is 0
        cast=("a", "b"),
        peers={"separable conv in float32": Peer(lambda a, b: lncc.separable(a.float(), b.float(), WINDOW, EPS), compile=True)}
        | {FUSED_LNCC: LNCC.peers[FUSED_LNCC]},
        bytes_per_unit=6,
        tolerance=1e-2,
        targets={},
    ),
    replace(  # what fused-lncc is measured on by its author
        LNCC,
        name="lncc window 7 forward+backward (features)",
        regkit=lambda a, b: ops.lncc(a, b, window=7, eps=EPS),
        peers={name: peer for name, peer in peers_of(7).items() if name != VOXELMORPH},  # that is for one channel
        sizes=("features",),
        dims=(3,),
    ),
    OpCase(
        name=f"similarity_maps patch {PATCH}, kernels {', '.join(map(str, KERNELS))}",
        op="similarity_maps",
        inputs=images_and_points,
        regkit=lambda fixed, moving, points: ops.similarity_maps(fixed, moving, points, patch_size=PATCH, kernel_sizes=KERNELS),
        peers={
            CONVOLUTION: Peer(lambda fixed, moving, points: correlate.convolution_similarity_maps(fixed, moving, points, PATCH, KERNELS))
        },
        unit="point",
        units=points_of,
        bytes_per_unit=4 * (2 + len(KERNELS)) * PATCH**3,  # what is written
        flops_per_unit=2 * max(KERNELS) ** 3 * PATCH**3,  # of the largest kernel, which holds the others
        dims=(3,),
        sizes=("brain",),
    ),
]
