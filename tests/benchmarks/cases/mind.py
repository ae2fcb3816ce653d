"""mind_ssc, as an image and as features for a cost volume; to add a case, append it to CASES (see __init__.py)."""

import torch

from regkit import ops
from tests.benchmarks.case import OpCase, Outputs, Peer
from tests.benchmarks.cases import inputs
from tests.benchmarks.peers import mind

CONVOLUTION = "convexAdam's formula"


def any_order_of_channels(outputs: Outputs) -> Outputs:
    """The pairs of MIND-SSC have no agreed order: sorted, two orders give the same."""
    return (outputs[0].sort(1).values,)


def halves_of_convolutions(image: torch.Tensor) -> torch.Tensor:
    return mind.convolutions(image, radius=1, dilation=2).to(torch.float16, memory_format=torch.channels_last_3d)


CASES = [
    OpCase(
        name="mind_ssc radius 1 dilation 2",
        op="mind_ssc",
        inputs=inputs.one_image,
        regkit=lambda image: ops.mind_ssc(image, radius=1, dilation=2),
        peers={CONVOLUTION: Peer(lambda image: mind.convolutions(image, radius=1, dilation=2), compile=True)},
        bytes_per_unit=56,  # image twice, 12 channels out
        flops_per_unit=190,
        targets={CONVOLUTION: 20},
        comparable=any_order_of_channels,
        dims=(3,),
    ),
    OpCase(
        name="mind_ssc radius 1 dilation 2 to channels-last float16",
        op="mind_ssc",
        inputs=inputs.one_image,
        regkit=lambda image: ops.mind_ssc(image, radius=1, dilation=2, dtype=torch.float16, channels_last=True),
        peers={CONVOLUTION: Peer(halves_of_convolutions, compile=True)},
        bytes_per_unit=32,  # image twice, 12 channels out
        flops_per_unit=190,
        targets={CONVOLUTION: 20},
        comparable=any_order_of_channels,
        tolerance=2e-3,
        dims=(3,),
    ),
]
