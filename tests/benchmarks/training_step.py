"""A training step of LapIRN and of VoxelMorph, with regkit's ops and with torch's functions: time and peak memory side by side.

`python -m tests.benchmarks.training_step [--size 80,96,112] [--json]`. A step is the forward pass, the losses and the backward pass. Both
sides have the same layers, for the network is the same object; what differs is what it and the losses take from regkit.ops, and that the
peers' VoxelMorph doubles and joins features before it convolves them, in torch's own layout, as its authors do. Losses and gradients are
compared before anything is timed.

LapIRN: all three levels, similarity pyramid (windows 7, 5, 3), Dice of two labels and smoothness at the finest. VoxelMorph: local NCC
(window 9) and smoothness. The peers differ in how they sum over the windows of local NCC: by a convolution with a cube of ones (as the
authors of both networks do), by one convolution an axis, by average pooling.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from regkit import losses, ops
from regkit.data.random_field import smooth_random_field
from regkit.models import LapIRN, VoxelMorph, doubled, lapirn, voxelmorph
from tests.benchmarks import machine, measure, memory
from tests.benchmarks.case import Run, relative_rms
from tests.benchmarks.peers import lncc, training

EPS = 1e-5
LABELS = 2
LAYERS = {name: getattr(doubled, name) for name in ("channels_last", "doubled_convolution")}
SMALL = 48  # voxels: the networks do not train in half precision on a CPU where their coarsest grid has two along its first axis
TOLERANCE = {"float32": 2e-3, "bfloat16": 5e-2}  # relative RMS of the gradients; a tenth of it for the losses
REGKIT = "regkit"


@dataclass(frozen=True)
class Provider:
    """Where a step's functions come from."""

    ops: object  # what the network takes in place of regkit.ops
    similarity: Callable[..., torch.Tensor]  # of fixed, warped, windows
    dice: Callable[..., torch.Tensor]  # of fixed and moving labels, displacement
    smoothness: Callable[[torch.Tensor], torch.Tensor]
    layers: dict[str, Callable]  # what VoxelMorph takes from regkit.models.doubled


def by_torch(box: lncc.Box) -> Provider:
    similarity = partial(training.similarity, eps=EPS, box=box)
    return Provider(training.ops, similarity, partial(training.dice_loss, labels=LABELS), training.smoothness_loss, training.layers)


def by_regkit() -> Provider:
    similarity = lambda fixed, warped, windows: losses.similarity_pyramid(fixed, warped, windows=windows, eps=EPS)  # noqa: E731
    return Provider(ops, similarity, partial(losses.dice_loss, labels=LABELS), losses.smoothness_loss, LAYERS)


PROVIDERS = {
    REGKIT: by_regkit(),
    "torch, NCC by a cube of ones": by_torch(lncc.cube_of_ones),
    "torch, NCC axis by axis": by_torch(lncc.axis_by_axis),
    "torch, NCC by pooling": by_torch(lncc.pooled),
}


def make_lapirn(dims: int) -> LapIRN:
    return LapIRN(dims=dims)


def make_voxelmorph(dims: int) -> VoxelMorph:
    network = VoxelMorph(dims=dims)
    torch.nn.init.normal_(network.flow.weight, 0, 0.05)  # a new network moves nothing
    return network


def lapirn_loss(found, batch: dict[str, torch.Tensor], provider: Provider) -> torch.Tensor:
    u = found.displacement
    warped = provider.ops.warp(batch["moving"], u, padding="border")
    return (
        provider.similarity(batch["fixed"], warped, (7, 5, 3))
        + provider.dice(batch["fixed_labels"], batch["moving_labels"], u)
        + provider.smoothness(found.regularised)
    )


def voxelmorph_loss(found, batch: dict[str, torch.Tensor], provider: Provider) -> torch.Tensor:
    warped = provider.ops.warp(batch["moving"], found.displacement)
    return provider.similarity(batch["fixed"], warped, (9,)) + provider.smoothness(found.regularised)


# name -> how it is made, the module whose `ops` is replaced, its fields, its loss
NETWORKS = {
    "LapIRN": (make_lapirn, lapirn, lambda network, fixed, moving: network.pyramid(fixed, moving)[-1], lapirn_loss),
    "VoxelMorph": (make_voxelmorph, voxelmorph, lambda network, fixed, moving: network.fields(fixed, moving), voxelmorph_loss),
}


@contextmanager
def taking(module, provider: Provider) -> Iterator[None]:
    """Within, a network's module has a provider's functions for regkit.ops and for VoxelMorph's layers."""
    own = {name: value for name, value in (("ops", ops), *LAYERS.items()) if hasattr(module, name)}
    for name, value in ({"ops": provider.ops} | provider.layers).items():
        if name in own:
            setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in own.items():
            setattr(module, name, value)


@dataclass(frozen=True)
class Step:
    """One training step of a network, without the optimiser's: calling it leaves the gradients at the parameters."""

    name: str
    provider: Provider
    network: torch.nn.Module
    batch: dict[str, torch.Tensor]
    precision: str

    def __call__(self) -> tuple[torch.Tensor]:
        _, module, fields, loss = NETWORKS[self.name]
        self.network.zero_grad(set_to_none=True)
        device = self.batch["fixed"].device.type
        with taking(module, self.provider):
            with torch.autocast(device, torch.bfloat16, enabled=self.precision == "bfloat16"):
                found = fields(self.network, self.batch["fixed"], self.batch["moving"])
            value = loss(found, self.batch, self.provider)
            value.backward()
        return (value.detach(),)


def made(name: str, size: tuple[int, ...], device: str, channels_last: bool) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The network and a batch of one pair; the same numbers every time."""
    torch.manual_seed(0)
    network = NETWORKS[name][0](len(size)).to(device)
    if channels_last:
        network = network.to(memory_format=torch.channels_last_3d if len(size) == 3 else torch.channels_last)
    field = smooth_random_field(size, 1.5, np.random.default_rng(0), channels=2)
    images = (field - field.min()) / (field.max() - field.min())
    labels = (images * (LABELS + 1)).clamp_max(LABELS).to(torch.uint8)
    batch = {"fixed": images[:1], "moving": images[1:], "fixed_labels": labels[:1], "moving_labels": labels[1:]}
    return network, {key: x[None].contiguous().to(device) for key, x in batch.items()}


def checked(name: str, network: torch.nn.Module, batch: dict[str, torch.Tensor], precision: str) -> dict[str, Step]:
    """The steps by provider, every one run once. Raises RuntimeError where a peer's loss or gradients are not regkit's."""
    steps = {label: Step(name, provider, network, batch, precision) for label, provider in PROVIDERS.items()}
    want = None
    for label, step in steps.items():
        value = step()[0]
        gradients = torch.cat([p.grad.flatten().float() for p in network.parameters()])
        if want is None:
            want = value, gradients
        tolerance = TOLERANCE[precision]
        for what, got, ours, allowed in (("loss", value, want[0], tolerance / 10), ("gradient", gradients, want[1], tolerance)):
            if not (error := relative_rms(got, ours)) <= allowed:
                raise RuntimeError(f"{name}, {precision}: the {what} of {label} is off by {error:.1e}, allowed {allowed:.1e}")
    return steps


def figures(name: str, precision: str, options: argparse.Namespace) -> dict[str, dict]:
    network, batch = made(name, options.size, options.device, options.channels_last)
    steps = checked(name, network, batch, precision)
    used: dict[str, list[float]] = {label: [] for label in steps}
    runs = {label: partial(clocked, step, used[label]) for label, step in steps.items()}
    times = measure.interleaved(runs, options.device, options.budget, options.rounds)
    found = {}
    for label, t in times.items():
        extra = None
        if not options.no_memory:
            extra = memory.on_gpu(steps[label]) if options.device != "cpu" else on_cpu(name, label, precision, options)
        found[label] = {
            "seconds": min(t.taken), "median": sorted(t.taken)[len(t.taken) // 2], "rounds": len(t.taken),
            "cpu_seconds": min(used[label]), "extra_bytes": extra,
        }  # fmt: skip
    return found


def clocked(run: Run, used: list[float]) -> tuple[torch.Tensor, ...]:
    """Runs, and notes the processor time of all threads: on a busy machine it says more than the clock."""
    begin = time.process_time()
    outputs = run()
    used.append(time.process_time() - begin)
    return outputs


def on_cpu(name: str, label: str, precision: str, options: argparse.Namespace) -> int | None:
    """Peak memory of a step in a fresh process; None where the system does not tell."""
    if not memory.CLEAR.exists():
        return None
    size = ",".join(map(str, options.size))
    wanted = json.dumps([name, label, precision])
    layout = "--channels-last" if options.channels_last else "--no-channels-last"
    return memory.from_process(__spec__.name, "--size", size, "--threads", str(options.threads), layout, "--memory-of", wanted)


def in_this_process(name: str, label: str, precision: str, options: argparse.Namespace) -> int:
    for size in ((SMALL,) * len(options.size), options.size):  # the first warms up threads, code and tables
        network, batch = made(name, size, "cpu", options.channels_last)
        step = Step(name, PROVIDERS[label], network, batch, precision)
        if size == options.size:
            return memory.beyond(step)
        step()


def table(title: str, found: dict[str, dict]) -> Table:
    shown = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("", "time s", "median", "rounds", "regkit is faster by", "CPU s", "by CPU s", "extra memory", "regkit takes"):
        shown.add_column(heading, justify="left" if not heading else "right")
    ours = found[REGKIT]
    for label, f in found.items():
        peer, megabytes, share = label != REGKIT, "", ""
        if f["extra_bytes"] is not None:
            megabytes = f"{f['extra_bytes'] / 1e6:.0f} MB"
            share = f"{ours['extra_bytes'] / f['extra_bytes']:.0%}" if peer else ""
        faster = [f"{f[key] / ours[key]:.2f}x" if peer else "" for key in ("seconds", "cpu_seconds")]
        row = [f"{f['seconds']:.3f}", f"{f['median']:.3f}", str(f["rounds"]), faster[0], f"{f['cpu_seconds']:.3f}", faster[1]]
        shown.add_row(label, *row, megabytes, share)
    return shown


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.training_step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = lambda text: tuple(int(n) for n in text.split(","))  # noqa: E731
    parser.add_argument("--size", type=size, default=(80, 96, 112), help="of the images: 2 or 3 multiples of 16, with commas")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="by default both; may be repeated")
    parser.add_argument("--precision", choices=TOLERANCE, action="append", help="of the layers; by default both; may be repeated")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True, help="the weights, as in training")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: torch's)")
    parser.add_argument("--rounds", type=int, default=10, help="most rounds of timing")
    parser.add_argument(
        "--budget", type=float, default=20, metavar="SECONDS", help="of timing each; three rounds at least, or one beyond it"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory (on the CPU a process of its own each)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON in place of tables")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # the fresh process of on_cpu
    options = parser.parse_args(given)
    if len(options.size) not in (2, 3) or any(n < 16 or n % 16 for n in options.size):
        parser.error(f"--size must be 2 or 3 multiples of 16, but is {','.join(map(str, options.size))}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} sees no GPU")
    return options


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # a peer's convolutions of squares keep float32, as in the ops' benchmarks
    if options.memory_of:
        print(in_this_process(*json.loads(options.memory_of), options))
        return 0
    described = machine.description(options.device)
    console = Console(width=None if sys.stdout.isatty() else 150, quiet=options.json)
    console.print(machine.line(described), highlight=False)
    size, entries = "x".join(map(str, options.size)), []
    for name in options.network or NETWORKS:
        for precision in options.precision or TOLERANCE:
            found = figures(name, precision, options)
            entries.append({"network": name, "precision": precision, "size": size, "channels_last": options.channels_last, "steps": found})
            console.print(table(f"{name}, {size}, {precision}{', channels last' if options.channels_last else ''}", found))
    if options.json:
        print(json.dumps({"measured_on": described, "entries": entries}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
