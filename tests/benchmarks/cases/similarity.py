"""lncc, warp_lncc, similarity_maps: append an OpCase to CASES (see __init__.py)."""

from regkit import ops
from tests.benchmarks.case import OpCase, Peer
from tests.benchmarks.cases import inputs
from tests.benchmarks.peers import lncc, monai

WINDOW, EPS = 9, 1e-5
SEPARABLE, MONAI = "separable conv", "MONAI"


CASES = [
    OpCase(
        name=f"lncc window {WINDOW} forward+backward",
        op="lncc",
        inputs=inputs.two_images,
        gradient=("a",),
        regkit=lambda a, b: ops.lncc(a, b, window=WINDOW, eps=EPS),
        peers={
            SEPARABLE: Peer(lambda a, b: lncc.separable(a, b, WINDOW, EPS), compile=True),
            MONAI: Peer(monai.call, prepare=lambda a, b: monai.lncc(a, b, WINDOW, EPS), needs="monai"),
        },
        bytes_per_unit=12,  # two images, one gradient
        flops_per_unit=lambda size: 85 if size.dims == 3 else 65,
        targets={SEPARABLE: 12, MONAI: 60},
        memory_target=6,
    ),
    OpCase(
        name=f"lncc window {WINDOW} forward+backward (both images)",
        op="lncc",
        inputs=inputs.two_images,
        gradient=("a", "b"),
        regkit=lambda a, b: ops.lncc(a, b, window=WINDOW, eps=EPS),
        peers={SEPARABLE: Peer(lambda a, b: lncc.separable(a, b, WINDOW, EPS), compile=True)},
        bytes_per_unit=16,
        flops_per_unit=lambda size: 110 if size.dims == 3 else 85,
        targets={SEPARABLE: 12},
        memory_target=6,
    ),
]
