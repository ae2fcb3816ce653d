"""warp_affine: append an OpCase to CASES (see __init__.py)."""

import torch

from regkit import ops
from regkit.data.augment import AffineAugmentation
from tests.benchmarks.case import OpCase, Peer, Size
from tests.benchmarks.cases import inputs
from tests.benchmarks.cases.labels import segmentation
from tests.benchmarks.peers import affine

COMPOSITE, MONAI = "affine_grid + 2 grid_sample", "MONAI"


def augmented(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """An image, its labels, and the affine that an augmentation draws for each item of the batch."""
    image, labels = inputs.image(size, generator), segmentation(size, generator)
    draw = AffineAugmentation(probability=1).draw
    return {"image": image, "labels": labels, "matrix": torch.stack([draw(size.spatial, generator) for _ in range(size.batch)])}


CASES = [
    OpCase(
        name="warp_affine, image and labels",
        op="warp_affine",
        inputs=augmented,
        regkit=lambda image, labels, matrix: ops.warp_affine(image, matrix, labels=labels),
        peers={
            COMPOSITE: Peer(affine.sample, prepare=affine.normalised, compile=True),
            MONAI: Peer(affine.call_monai, prepare=affine.monai_layers, needs="monai"),
        },
        bytes_per_unit=10,  # image 4 + 4, labels 1 + 1
        flops_per_unit=lambda size: 36 if size.dims == 3 else 18,
        tolerance=2e-2,  # positions are rounded differently: a few labels lie between two voxels
    ),
]
