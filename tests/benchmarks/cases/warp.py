"""warp, compose, integrate_velocity, invert: append an OpCase to CASES (see __init__.py)."""

from dataclasses import replace

import torch

from regkit import ops
from tests.benchmarks.case import OpCase, Outputs, Peer, Size
from tests.benchmarks.cases import inputs
from tests.benchmarks.peers import fireants, grid_sample, monai

# The composite is what VoxelMorph and many others do.
COMPOSITE, READY_GRID, MONAI, FIREANTS = "composite (VoxelMorph)", "grid_sample", "MONAI", "FireANTs"


def with_gradient_of_image(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return inputs.image_and_displacement(size, generator) | {"grad_out": inputs.noise(size.channels, size, generator)}


def channels_last(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    last = torch.channels_last_3d if size.dims == 3 else torch.channels_last
    made = with_gradient_of_image(size, generator)
    return made | {name: made[name].contiguous(memory_format=last) for name in ("image", "grad_out")}


def velocity_and_gradient(size, generator):
    return inputs.one_displacement(size, generator) | {"grad_out": inputs.noise(size.dims, size, generator)}


def per_voxel(outputs: Outputs) -> Outputs:
    """A gradient by a normalised grid (last axis first, components last) as one by a displacement in voxels."""
    value, gradient = outputs
    per_axis = [2 / (n - 1) for n in value.shape[2:]]
    return value, torch.stack([gradient[..., -1 - d] * scale for d, scale in enumerate(per_axis)], 1)


WARP = OpCase(
    name="warp forward",
    op="warp",
    inputs=inputs.image_and_displacement,
    regkit=lambda image, u: ops.warp(image, u),
    peers={
        COMPOSITE: Peer(grid_sample.warp, prepare=grid_sample.with_identity, compile=True),
        READY_GRID: Peer(grid_sample.sample, prepare=grid_sample.ready_grid),
        MONAI: Peer(monai.call_warp, prepare=monai.warp, needs="monai"),
        FIREANTS: Peer(fireants.warp, prepare=fireants.normalised_displacement, needs="fireants_fused_ops", devices=("cuda",)),
    },
    bytes_per_unit=lambda size: 4 * size.dims + 8,  # displacement, image, output
    flops_per_unit=lambda size: 46 if size.dims == 3 else 24,
    targets={COMPOSITE: 6, READY_GRID: 3},
)
WARP_GRADIENT = replace(
    WARP,
    name="warp forward+backward (displacement)",
    inputs=with_gradient_of_image,
    gradient=("u",),
    peers={name: replace(peer, comparable=per_voxel) if name in (READY_GRID, FIREANTS) else peer for name, peer in WARP.peers.items()},
    bytes_per_unit=lambda size: 12 * size.dims + 16,  # forward; displacement, image, incoming gradient, gradient
    flops_per_unit=lambda size: 106 if size.dims == 3 else 58,
    tolerance=1e-2,  # at a cell's border the gradient jumps, and the peers round positions differently
    targets={COMPOSITE: 8},
)
# Several channels at once, of which the image's gradient is wanted: the features of a network, in either layout.
WARP_FEATURES = replace(
    WARP_GRADIENT,
    name="warp forward+backward (image, features)",
    gradient=("image",),
    peers={name: WARP.peers[name] for name in (COMPOSITE, READY_GRID, FIREANTS)},
    bytes_per_unit=lambda size: 8 * size.dims + 16 * size.channels,  # forward; displacement, incoming gradient, gradient
    flops_per_unit=lambda size: 2 * (30 + 16 * size.channels if size.dims == 3 else 16 + 8 * size.channels),
    sizes=("features",),
    tolerance=1e-3,
    targets={},
)
# Half precision images; the displacement stays float32. torch's grid_sample wants both alike: autocast gives it both in float32.
AUTOCAST = "composite in float32"
HALF = {
    "dtype": torch.float16,
    "cast": ("image", "grad_out"),
    "peers": {
        AUTOCAST: Peer(
            lambda image, u, identity: grid_sample.warp(image.float(), u, identity).to(image.dtype),
            prepare=grid_sample.with_identity,
            compile=True,
        )
    },
    "targets": {},
}

STEPS, ROUNDS = 7, 10
INTEGRATE = OpCase(
    name=f"integrate_velocity {STEPS} steps",
    op="integrate_velocity",
    inputs=inputs.one_displacement,
    regkit=lambda u: ops.integrate_velocity(u, steps=STEPS),
    # VoxelMorph's layers take 0 outside, these the border, so that results can be compared; it costs the same.
    peers={COMPOSITE: Peer(grid_sample.integrate, prepare=grid_sample.with_identity, compile=True)},
    bytes_per_unit=lambda size: STEPS * 8 * size.dims,  # a step reads a field and writes one
    flops_per_unit=lambda size: STEPS * (81 if size.dims == 3 else 34),
)
INTEGRATE_GRADIENT = replace(
    INTEGRATE,
    name=f"integrate_velocity {STEPS} steps forward+backward",
    inputs=velocity_and_gradient,
    gradient=("u",),
    # Forward; all fields but the last once more; and a step of backward reads a field and a gradient and writes one.
    bytes_per_unit=lambda size: (8 * STEPS + 8 * (STEPS - 1) + 12 * STEPS) * size.dims,
    flops_per_unit=lambda size: (STEPS + STEPS - 1) * (81 if size.dims == 3 else 34) + STEPS * (210 if size.dims == 3 else 90),
    tolerance=1e-2,  # at a cell's border the gradient jumps, and the peers round positions differently
    targets={COMPOSITE: 8},
)

CASES = [
    WARP,
    WARP_GRADIENT,
    WARP_FEATURES,
    replace(
        WARP_FEATURES,
        name="warp forward+backward (image, features channels last)",
        inputs=channels_last,
        peers={name: WARP.peers[name] for name in (COMPOSITE, READY_GRID)},
    ),
    replace(WARP, name="warp forward, float16", bytes_per_unit=lambda size: 4 * size.dims + 4, **HALF),
    replace(WARP_GRADIENT, name="warp forward+backward, float16", bytes_per_unit=lambda size: 12 * size.dims + 8, **HALF),
    OpCase(
        name="compose",
        op="compose",
        inputs=inputs.two_displacements,
        regkit=lambda u, v: ops.compose(u, v),
        peers={COMPOSITE: Peer(grid_sample.compose, prepare=grid_sample.with_identity, compile=True)},
        bytes_per_unit=lambda size: 12 * size.dims,
        flops_per_unit=lambda size: 81 if size.dims == 3 else 34,
    ),
    INTEGRATE,
    INTEGRATE_GRADIENT,
    replace(
        INTEGRATE_GRADIENT,
        name=f"integrate_velocity {STEPS} saved steps forward+backward",
        regkit=lambda u: ops.integrate_velocity(u, steps=STEPS, save_steps=True),
        bytes_per_unit=lambda size: 20 * STEPS * size.dims,
        flops_per_unit=lambda size: STEPS * (291 if size.dims == 3 else 124),
    ),
    OpCase(
        name=f"invert {ROUNDS} rounds",
        op="invert",
        inputs=inputs.one_displacement,
        regkit=lambda u: ops.invert(u, iterations=ROUNDS, tolerance=0.0),  # every voxel goes through all rounds, as the peer's do
        peers={
            COMPOSITE: Peer(lambda u, identity: grid_sample.invert(u, identity, ROUNDS), prepare=grid_sample.with_identity, compile=True)
        },
        bytes_per_unit=lambda size: 8 * size.dims,
        flops_per_unit=lambda size: ROUNDS * (81 if size.dims == 3 else 34),
    ),
]
