"""Calls of ops on the GPU, prepared so that nothing in them needs the host: what streams, CUDA graphs and the check for syncs run."""

from collections.abc import Callable

import torch

from regkit import ops
from tests.ops.cases import NAMES, Case, cases, plain_cases, randn

DEVICE = "cuda"
ELEMENTS = 2**31  # what offsets of 32 bits cannot reach


def all_cases(spatial: tuple[int, ...], dtype: torch.dtype, device: str = DEVICE) -> dict[str, Case]:
    """A case of every op on a device, with the tensors that its function holds."""
    with torch.device(device):
        return cases(spatial, dtype=dtype) | plain_cases(spatial, dtype=dtype)


def _op(name: str) -> str:
    return name.split()[0]


# Every case by every backend that runs it on a GPU; by the reference where that is all there is.
PAIRS = [
    (name, backend)
    for name in (*NAMES, *plain_cases((3, 4), 1))
    for backend in [b for b in ("cuda", "triton") if b in ops.available(_op(name))] or ["reference"]
]


class Call:
    """A case's forward and backward on leaves of its own. The first call, here, compiles what it launches."""

    def __init__(self, case: Case):
        self.function = case.function
        self.leaves = [t.detach().clone().requires_grad_() for t in case.tensors]
        value = self.function(*self.leaves)
        self.weight = randn(*value.shape, seed=9).to(value) if value.dim() else torch.full_like(value, 500.0)
        self()

    def __call__(self) -> list[torch.Tensor]:
        value = self.function(*self.leaves)
        if not value.requires_grad:
            return [value]
        return [value.detach(), *torch.autograd.grad(value, self.leaves, self.weight)]

    @torch.no_grad()
    def set(self, tensors: tuple[torch.Tensor, ...]) -> None:
        for leaf, tensor in zip(self.leaves, tensors):
            leaf.copy_(tensor)


def reference(case: Case) -> list[torch.Tensor]:
    """What a case's call gives by the reference in float64."""
    with ops.backend("reference"):
        return Call(Case(case.function, tuple(t.double() for t in case.tensors)))()


def captured(call: Callable[[], list[torch.Tensor]]) -> tuple[Callable[[], None], list[torch.Tensor]]:
    """A call in a CUDA graph: its replay, and the results that replays write."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return graph.replay, results
