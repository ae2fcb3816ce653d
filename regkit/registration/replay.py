"""A step of an optimisation on a GPU as a CUDA graph: one launch in place of dozens that take the host longer than the GPU."""

from collections.abc import Callable

import torch

EAGER = 3  # calls before the graph: they compile kernels and let libraries make room, which cannot be recorded


class Replayed:
    """Calls a step that works in place and returns a tensor; on a GPU by a CUDA graph from the fourth call on.

    step: reads and writes the same tensors every time, and needs nothing of the host. Its result on a GPU is overwritten by the next call.
    """

    def __init__(self, step: Callable[[], torch.Tensor], device: torch.device | str):
        self.step, self.device = step, torch.device(device)
        self.calls, self.result = 0, None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> torch.Tensor:
        if self.device.type != "cuda":
            return self.step()
        self.calls += 1
        if self.calls <= EAGER:
            return self._aside()
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # records, and computes nothing
                self.result = self.step()
        self.graph.replay()
        return self.result

    def _aside(self) -> torch.Tensor:
        """The step on a stream of its own, as recording one needs."""
        stream, now = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            result = self.step()
        now.wait_stream(stream)
        return result
