"""The CUDA kernels in emulation, for the tests of this folder where there is no GPU."""

import pytest
import torch

from regkit.ops import cuda
from tests.cuda import emulated


@pytest.fixture(scope="session")
def module():
    """The emulated kernels."""
    return emulated.load()


@pytest.fixture
def device(request) -> str:
    """Where the backend `cuda` runs here: on a GPU, else emulated on the CPU while the test lasts."""
    if torch.cuda.is_available() and cuda.built():
        yield "cuda"
        return
    cuda.emulate(request.getfixturevalue("module"))
    try:
        yield "cpu"
    finally:
        cuda.emulate(None)
