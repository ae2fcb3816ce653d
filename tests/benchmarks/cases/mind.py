"""mind_ssc: append an OpCase to CASES (see __init__.py)."""

from regkit import ops
from tests.benchmarks.case import OpCase, Outputs, Peer
from tests.benchmarks.cases import inputs
from tests.benchmarks.peers import mind

CONVOLUTION = "convexAdam's formula"


def any_order_of_channels(outputs: Outputs) -> Outputs:
    """The pairs of MIND-SSC have no agreed order: sorted, two orders give the same."""
    return (outputs[0].sort(1).values,)


CASES = [
    OpCase(
        name="mind_ssc radius 1 dilation 2",
        op="mind_ssc",
        inputs=inputs.one_image,
        regkit=lambda image: ops.mind_ssc(image, radius=1, dilation=2),
        peers={CONVOLUTION: Peer(lambda image: mind.convolutions(image, radius=1, dilation=2), compile=True)},
        bytes_per_unit=52,  # image 4, 12 channels out
        flops_per_unit=190,
        targets={CONVOLUTION: 20},
        comparable=any_order_of_channels,
        dims=(3,),
    ),
]
