"""correlate_keypoints, correlate_dense, expected_displacement, best_displacement, embed_displacements: append an OpCase to CASES.

See __init__.py for how.
"""

import torch

from regkit import ops
from tests.benchmarks.case import OpCase, Peer, Size
from tests.benchmarks.peers import correlate

KEYPOINTS, CHANNELS, SEARCH_RADIUS, PATCH_RADIUS = 2048, 12, 10, 0
SIDE = 2 * SEARCH_RADIUS + 1
CONVOLUTION = "grouped conv"


def features_and_keypoints(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Feature maps at stride 2 of an image of this size, and keypoints anywhere in them."""
    half = tuple(n // 2 for n in size.spatial)
    fixed, moving = (torch.rand(1, CHANNELS, *half, generator=generator) for _ in range(2))
    keypoints = torch.stack([torch.randint(0, n, (1, KEYPOINTS), generator=generator) for n in half], -1)
    return {"fixed": fixed, "moving": moving, "keypoints": keypoints}


CASES = [
    OpCase(
        name=f"keypoint cost volume {KEYPOINTS} x {SIDE}^3",
        op="correlate_keypoints",
        inputs=features_and_keypoints,
        regkit=lambda fixed, moving, keypoints: ops.correlate_keypoints(
            fixed, moving, keypoints, search_radius=SEARCH_RADIUS, stride=1, patch_radius=PATCH_RADIUS, metric="ssd"
        ).flatten(),
        peers={
            CONVOLUTION: Peer(
                lambda fixed, moving, keypoints: correlate.grouped_convolution_ssd(
                    fixed, moving, keypoints, SEARCH_RADIUS, PATCH_RADIUS
                ).flatten()
            )
        },
        bytes_per_unit=4,
        flops_per_unit=3 * CHANNELS,
        unit="cost",
        units=lambda size: KEYPOINTS * SIDE**3,
        targets={CONVOLUTION: 10},
        memory_target=1.1,
        dims=(3,),
    ),
]
