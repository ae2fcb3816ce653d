"""warp_labels, soft_dice: append an OpCase to CASES (see __init__.py)."""

from dataclasses import replace

import torch

from regkit import ops
from tests.benchmarks.case import OpCase, Peer, Size
from tests.benchmarks.cases import inputs
from tests.benchmarks.peers import grid_sample
from tests.benchmarks.peers import labels as peer

LABELS = 35  # of a brain, beside the background
COMPOSITE, ONE_HOT, READY_ONE_HOT = "grid_sample", "one-hot + grid_sample", "grid_sample of ready one-hot"


def segmentation(size: Size, generator: torch.Generator) -> torch.Tensor:
    """Smooth regions in an ellipsoid that fills a third of the image, as a brain does; (batch, 1, *spatial) uint8."""
    best = torch.full((size.batch, 1, *size.spatial), -torch.inf)
    found = torch.zeros(best.shape, dtype=torch.uint8)
    for label in range(1, LABELS + 1):
        field = inputs.smooth(1, size, generator)
        found[field > best] = label
        best = torch.maximum(best, field)
    axes = [torch.linspace(-1.2, 1.2, n).square() for n in size.spatial]
    outside = sum(torch.meshgrid(*axes, indexing="ij")) > 1
    found[..., outside] = 0
    return found


def labels_and_displacement(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {"labels": segmentation(size, generator), "u": inputs.displacement(size, generator)}


def two_segmentations(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    grad_out = torch.rand(size.batch, LABELS, generator=generator)
    maps = {name: segmentation(size, generator) for name in ("fixed", "moving")}
    return {**maps, "u": inputs.displacement(size, generator), "grad_out": grad_out}


def ready_one_hot(fixed: torch.Tensor, moving: torch.Tensor, u: torch.Tensor) -> dict[str, torch.Tensor]:
    made = {name: peer.one_hot(x, LABELS)[:, 1:].contiguous() for name, x in (("fixed", fixed), ("moving", moving))}
    return grid_sample.with_identity(**made, u=u)


def dice_of_labels(fixed: torch.Tensor, moving: torch.Tensor, u: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    return peer.dice(peer.one_hot(fixed, LABELS)[:, 1:], peer.one_hot(moving, LABELS)[:, 1:], u, identity)


def majority_of_one_hot(labels: torch.Tensor, u: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    return peer.warp_majority(labels, u, identity, LABELS)


NEAREST = OpCase(
    name="warp_labels nearest, uint8",
    op="warp_labels",
    inputs=labels_and_displacement,
    regkit=lambda labels, u: ops.warp_labels(labels, u),
    peers={COMPOSITE: Peer(peer.warp_nearest, prepare=grid_sample.with_identity, compile=True)},
    bytes_per_unit=lambda size: 4 * size.dims + 2,  # displacement, labels, result
    flops_per_unit=15,
    dtype=torch.uint8,
    tolerance=2e-2,  # positions are rounded differently: a few voxels lie between two
)
CASES = [
    NEAREST,
    replace(
        NEAREST,
        name=f"warp_labels majority of {LABELS}, uint8",
        regkit=lambda labels, u: ops.warp_labels(labels, u, mode="majority", padding="border"),
        peers={ONE_HOT: Peer(majority_of_one_hot, prepare=grid_sample.with_identity)},
        flops_per_unit=40,
    ),
    replace(
        NEAREST,
        name="warp_labels nearest, int16",
        dtype=torch.int16,
        cast=("labels",),
        bytes_per_unit=lambda size: 4 * size.dims + 4,
    ),
    OpCase(
        name=f"soft_dice of {LABELS} labels forward+backward",
        op="soft_dice",
        inputs=two_segmentations,
        gradient=("u",),
        regkit=lambda fixed, moving, u: ops.soft_dice(fixed, moving, u, labels=LABELS),
        dtype=torch.uint8,
        peers={
            ONE_HOT: Peer(dice_of_labels, prepare=grid_sample.with_identity, compile=True),
            READY_ONE_HOT: Peer(peer.dice, prepare=ready_one_hot),
        },
        bytes_per_unit=lambda size: 12 * size.dims + 4,  # displacement and labels twice, gradient
        flops_per_unit=40,
        tolerance=1e-2,  # at a cell's border the gradient jumps, and the peers round positions differently
        targets={ONE_HOT: 10},
        memory_target=4.5,  # the gradient is 3
    ),
]
