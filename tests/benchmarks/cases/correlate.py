"""correlate_keypoints, correlate_dense, expected_displacement, best_displacement, embed_displacements: append an OpCase to CASES.

See __init__.py for how.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from regkit import ops
from tests.benchmarks.case import OpCase, Peer, Size
from tests.benchmarks.peers import correlate

KEYPOINTS, CHANNELS, SEARCH_RADIUS, PATCH_RADIUS = 2048, 12, 10, 0
SIDE = 2 * SEARCH_RADIUS + 1
SHARPNESS, COLUMNS = 20.0, 64
FEATURE_CHANNELS, RADIUS = 32, 2
MAP, MAP_ALONE, CONVOLUTION, SHIFTED, UNFOLDED = (
    "regkit's map + torch",
    "regkit's map alone",
    "grouped conv",
    "shifted products",
    "unfold + einsum",
)
SEARCH = {"search_radius": SEARCH_RADIUS, "patch_radius": PATCH_RADIUS, "metric": "ssd"}


def features_and_keypoints(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Feature maps at stride 2 of an image of this size, and keypoints anywhere in them."""
    half = tuple(n // 2 for n in size.spatial)
    fixed, moving = (torch.rand(1, CHANNELS, *half, generator=generator) for _ in range(2))
    keypoints = torch.stack([torch.randint(0, n, (1, KEYPOINTS), generator=generator) for n in half], -1)
    return {"fixed": fixed, "moving": moving, "keypoints": keypoints}


def with_gradient_of_displacements(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return features_and_keypoints(size, generator) | {"grad_out": torch.rand(1, KEYPOINTS, 3, generator=generator)}


def with_basis(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return features_and_keypoints(size, generator) | {"basis": torch.randn(SIDE**3, COLUMNS, generator=generator) / SIDE}


def feature_maps(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The second level of a feature pyramid on an image of this size: a quarter of its resolution (an eighth in batches of 2-D images)."""
    spatial = tuple(n // 4 for n in size.spatial)
    a, b = (torch.randn(size.batch, FEATURE_CHANNELS, *spatial, generator=generator) for _ in range(2))
    return {"a": a, "b": b, "grad_out": torch.rand(size.batch, (2 * RADIUS + 1) ** size.dims, *spatial, generator=generator)}


def ssd_map(fixed: torch.Tensor, moving: torch.Tensor, keypoints: torch.Tensor) -> torch.Tensor:
    return ops.correlate_keypoints(fixed, moving, keypoints, **SEARCH)


def convolution_map(fixed: torch.Tensor, moving: torch.Tensor, keypoints: torch.Tensor) -> torch.Tensor:
    return correlate.grouped_convolution_ssd(fixed, moving, keypoints, SEARCH_RADIUS, PATCH_RADIUS)


def of_map(finish: Callable[..., torch.Tensor]) -> dict[str, Peer]:
    """What is made of the similarities, made by torch of the map."""
    return {
        MAP: Peer(lambda fixed, moving, keypoints, **more: finish(ssd_map(fixed, moving, keypoints), **more)),
        CONVOLUTION: Peer(lambda fixed, moving, keypoints, **more: finish(convolution_map(fixed, moving, keypoints), **more)),
    }


def soft_min(ssd: torch.Tensor) -> torch.Tensor:
    return correlate.soft_min(ssd, SEARCH_RADIUS, SHARPNESS)


def arg_min(ssd: torch.Tensor) -> torch.Tensor:
    return correlate.arg_min(ssd, SEARCH_RADIUS)


def landed(best: torch.Tensor, moving: torch.Tensor, keypoints: torch.Tensor) -> torch.Tensor:
    """The voxels that keypoints come to: displacements that leave the image see its border, so that several are equally good."""
    return torch.minimum((keypoints + best).clamp_min(0), torch.tensor(moving.shape[2:], device=best.device) - 1)


CUBES = OpCase(
    name=f"keypoint cost volume {KEYPOINTS} x {SIDE}^3",
    op="correlate_keypoints",
    inputs=features_and_keypoints,
    regkit=ssd_map,
    peers={CONVOLUTION: Peer(convolution_map)},
    bytes_per_unit=4,
    flops_per_unit=3 * CHANNELS,
    unit="cost",
    units=lambda size: KEYPOINTS * SIDE**3,
    targets={CONVOLUTION: 10},
    memory_target=1.1,
    dims=(3,),
)
EXPECTED = replace(
    CUBES,
    name=f"expected_displacement {KEYPOINTS} x {SIDE}^3",
    op="expected_displacement",
    regkit=lambda fixed, moving, keypoints: ops.expected_displacement(fixed, moving, keypoints, sharpness=SHARPNESS, **SEARCH),
    peers=of_map(soft_min) | {MAP_ALONE: Peer(ssd_map, comparable=lambda outputs: (soft_min(outputs[0]),))},
    bytes_per_unit=lambda size: 2 * 4 * CHANNELS * size.voxels / 8 / (KEYPOINTS * SIDE**3),  # the features, once
    flops_per_unit=3 * CHANNELS + 10,
    targets={MAP: 2, MAP_ALONE: 1, CONVOLUTION: 10},
    memory_target=0.1,
)
DENSE = OpCase(
    name=f"correlate_dense radius {RADIUS}, {FEATURE_CHANNELS} channels",
    op="correlate_dense",
    inputs=feature_maps,
    regkit=lambda a, b: ops.correlate_dense(a, b, radius=RADIUS),
    peers={
        SHIFTED: Peer(lambda a, b: correlate.shifted_products(a, b, RADIUS), compile=True),
        UNFOLDED: Peer(lambda a, b: correlate.unfolded_products(a, b, RADIUS)),
    },
    bytes_per_unit=lambda size: 4 * (2 * FEATURE_CHANNELS + (2 * RADIUS + 1) ** size.dims),
    flops_per_unit=lambda size: 2 * FEATURE_CHANNELS * (2 * RADIUS + 1) ** size.dims,
    unit="feature voxel",
    units=lambda size: size.batch * math.prod(n // 4 for n in size.spatial),
    targets={SHIFTED: 20},
)
CASES = [
    CUBES,
    EXPECTED,
    replace(
        EXPECTED,
        name=f"{EXPECTED.name} forward+backward",
        inputs=with_gradient_of_displacements,
        gradient=("fixed", "moving"),
        peers=of_map(soft_min),
        bytes_per_unit=lambda size: 4 * 4 * CHANNELS * size.voxels / 8 / (KEYPOINTS * SIDE**3),  # and their gradients
        flops_per_unit=12 * CHANNELS + 30,  # the similarities twice, two gradients
        targets={MAP: 1.1},
        memory_target=1.5,
    ),
    replace(
        EXPECTED,
        name=f"best_displacement {KEYPOINTS} x {SIDE}^3",
        op="best_displacement",
        regkit=lambda fixed, moving, keypoints: landed(ops.best_displacement(fixed, moving, keypoints, **SEARCH), moving, keypoints),
        peers={
            MAP: Peer(lambda fixed, moving, keypoints: landed(arg_min(ssd_map(fixed, moving, keypoints)), moving, keypoints)),
            CONVOLUTION: Peer(
                lambda fixed, moving, keypoints: landed(arg_min(convolution_map(fixed, moving, keypoints)), moving, keypoints)
            ),
        },
        flops_per_unit=3 * CHANNELS + 2,
        targets={MAP: 1.2, CONVOLUTION: 10},
    ),
    replace(
        EXPECTED,
        name=f"embed_displacements {KEYPOINTS} x {SIDE}^3 x {COLUMNS}",
        op="embed_displacements",
        inputs=with_basis,
        regkit=lambda fixed, moving, keypoints, basis: ops.embed_displacements(fixed, moving, keypoints, basis, **SEARCH),
        peers=of_map(lambda ssd, basis: ssd @ basis),
        flops_per_unit=3 * CHANNELS + 2 * COLUMNS,
        targets={MAP: 1.2, CONVOLUTION: 10},
        memory_target=0.2,
    ),
    DENSE,
    replace(
        DENSE,
        name=f"{DENSE.name} forward+backward",
        gradient=("a", "b"),
        bytes_per_unit=lambda size: 4 * (6 * FEATURE_CHANNELS + 2 * (2 * RADIUS + 1) ** size.dims),
        flops_per_unit=lambda size: 6 * FEATURE_CHANNELS * (2 * RADIUS + 1) ** size.dims,
        targets={SHIFTED: 20},
    ),
]
