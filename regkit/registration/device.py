"""Where a registration is computed: the CPU, or a GPU, and how much of a GPU's memory it took."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from regkit.errors import UsageError


def resolve(name: str) -> torch.device:
    """The device of a name: auto (a GPU where torch can use one, else the CPU), cpu, cuda, cuda:1.

    Raises UsageError for other names, and for a GPU that is not there.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu", *([torch.cuda.current_device()] if gpus else []))
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"unknown device {name!r}; take auto, cpu, cuda or cuda:NUMBER")
    if kind == "cpu":
        return torch.device("cpu")
    if not gpus:
        built = "is built for the CPU alone" if torch.version.cuda is None else f"(built for CUDA {torch.version.cuda}) finds none"
        raise UsageError(f"device {name}: there is no GPU that torch can use: torch {torch.__version__} {built}; take --device cpu")
    if number and int(number) >= gpus:
        raise UsageError(f"device {name}: there {'is one GPU' if gpus == 1 else f'are {gpus} GPUs'}, counted from cuda:0")
    return torch.device("cuda", int(number) if number else torch.cuda.current_device())


@contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """Within, `device` is torch's current GPU, its peak of memory is counted from here, and its convolutions keep the bits of float32."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        torch.cuda.reset_peak_memory_stats(device)
        yield


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was told: for times that mean something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gpu_memory_mb(device: torch.device) -> float | None:
    """MB of a GPU's memory that tensors took at most, within `computing_on`; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def name_of(device: torch.device) -> str:
    """For the record: cpu, or cuda and the GPU's name."""
    return f"{device.type} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
