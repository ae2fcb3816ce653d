"""warp, compose, integrate_velocity, invert: append an OpCase to CASES (see __init__.py)."""

import torch

from regkit import ops
from tests.benchmarks.case import OpCase, Outputs, Peer
from tests.benchmarks.cases import inputs
from tests.benchmarks.peers import grid_sample

COMPOSITE, READY_GRID = "composite", "grid_sample"


def with_gradient_of_image(size, generator):
    return inputs.image_and_displacement(size, generator) | {"grad_out": inputs.noise(size.channels, size, generator)}


def per_voxel(outputs: Outputs) -> Outputs:
    """A gradient by a normalised grid (last axis first, components last) as one by a displacement in voxels."""
    value, gradient = outputs
    per_axis = [2 / (n - 1) for n in value.shape[2:]]
    return value, torch.stack([gradient[..., -1 - d] * scale for d, scale in enumerate(per_axis)], 1)


CASES = [
    OpCase(
        name="warp forward",
        op="warp",
        inputs=inputs.image_and_displacement,
        regkit=lambda image, u: ops.warp(image, u),
        peers={
            COMPOSITE: Peer(grid_sample.warp, prepare=grid_sample.with_identity, compile=True),
            READY_GRID: Peer(grid_sample.sample, prepare=grid_sample.ready_grid),
        },
        bytes_per_unit=lambda size: 4 * size.dims + 8,  # displacement, image, output
        flops_per_unit=lambda size: 46 if size.dims == 3 else 24,
        targets={COMPOSITE: 6, READY_GRID: 3},
    ),
    OpCase(
        name="warp forward+backward (displacement)",
        op="warp",
        inputs=with_gradient_of_image,
        gradient=("u",),
        regkit=lambda image, u: ops.warp(image, u),
        peers={
            COMPOSITE: Peer(grid_sample.warp, prepare=grid_sample.with_identity, compile=True),
            READY_GRID: Peer(grid_sample.sample, prepare=grid_sample.ready_grid, comparable=per_voxel),
        },
        bytes_per_unit=lambda size: 12 * size.dims + 16,  # forward; displacement, image, incoming gradient, gradient
        flops_per_unit=lambda size: 106 if size.dims == 3 else 58,
        tolerance=1e-2,  # at a cell's border the gradient jumps, and the peers round positions differently
        targets={COMPOSITE: 8},
    ),
    OpCase(
        name="compose",
        op="compose",
        inputs=inputs.two_displacements,
        regkit=lambda u, v: ops.compose(u, v),
        peers={COMPOSITE: Peer(grid_sample.compose, prepare=grid_sample.with_identity, compile=True)},
        bytes_per_unit=lambda size: 12 * size.dims,
        flops_per_unit=lambda size: 81 if size.dims == 3 else 34,
    ),
]
