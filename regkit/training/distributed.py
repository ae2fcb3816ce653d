"""The processes of a training: one, or as many as torchrun started."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from regkit.errors import UsageError


@dataclass(frozen=True)
class World:
    """This process's place among all."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def gather(self, item: Any) -> list[Any]:
        """Every process's item, in the order of ranks."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def share(self, item: Any) -> Any:
        """The leader's item."""
        return self.gather(item)[0]


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Joins the processes that torchrun started (gloo on CPUs, NCCL on GPUs); alone, there is nothing to join."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        gc.collect()  # a DistributedDataParallel lies in a cycle and would keep gloo's threads into the end of the process, which aborts it
        dist.destroy_process_group()


def pick_device(wanted: str) -> torch.device:
    """The device of this process; with "auto" its GPU where there is one. Raises UsageError for cuda without."""
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UsageError(f"device cuda: torch {torch.__version__} sees no GPU here; take auto or cpu")
    if wanted == "cpu" or not there:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
