"""A registry whose providers fail in every way, for the tests of the worker."""

import os
import time

import torch

from tests.benchmarks.case import OpCase, Peer
from tests.benchmarks.cases import inputs


def crash(image: torch.Tensor) -> torch.Tensor:
    os.abort()


def hang(image: torch.Tensor) -> torch.Tensor:
    time.sleep(600)
    return image


def fail(image: torch.Tensor) -> torch.Tensor:
    raise ValueError("no such luck\nand more")


CASES = [
    OpCase(
        name="failing",
        op="smooth",
        inputs=inputs.one_image,
        regkit=lambda image: image + 1,
        peers={
            "right": Peer(lambda image: image + 1),
            "wrong": Peer(lambda image: image + 2),
            "not a number": Peer(lambda image: image + float("nan")),
            "fails": Peer(fail),
            "crashes": Peer(crash),
            "hangs": Peer(hang),
            "needs a package": Peer(lambda image: image, needs="no_such_package"),
            "needs another": Peer(lambda image: image, needs="no_such_package"),
            "for GPUs": Peer(lambda image: image, devices=("cuda",)),
        },
        bytes_per_unit=8,
        flops_per_unit=1,
    )
]
