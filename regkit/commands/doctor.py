"""regkit doctor: what this machine has, which backend each op takes and why, and whether it computes what it should."""

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regkit.cores import usable_cores

if TYPE_CHECKING:
    from torch import Tensor

DEPENDENCIES = (
    "torch",
    "triton",
    "numpy",
    "scipy",
    "nibabel",
    "h5py",
    "SimpleITK",
    "monai",
    "tyro",
    "rich",
    "matplotlib",
    "jinja2",
    "safetensors",
)
TOLERANCE = 1e-3


@dataclass
class Doctor:
    """Versions, backends per op and why, threads, GPU, and a self-test. Exit code 1 when something is broken."""

    def run(self) -> int:
        """Print the findings; 0 when all is well, 1 when not."""
        from rich.console import Console

        console = Console(soft_wrap=True, highlight=False)
        healthy = True
        for title, check in (("Versions", versions), ("Machine", machine), ("Ops", backends), ("Self-test", self_test)):
            console.print(f"[bold]{title}[/bold]")
            for name, text, well in check():
                healthy &= well
                console.print(f"  {name:<26} ", end="")
                console.print(text, style=None if well else "bold red", markup=False)
        return 0 if healthy else 1


Finding = tuple[str, str, bool]


def versions() -> list[Finding]:
    """regkit, Python and the packages that regkit needs."""
    from importlib.metadata import PackageNotFoundError, version

    from regkit import __version__

    found = [("regkit", __version__, True), ("Python", platform.python_version(), True)]
    for name in DEPENDENCIES:
        try:
            found.append((name, version(name), True))
        except PackageNotFoundError:
            needed = name != "triton"  # there are no Triton wheels outside Linux, nor for every torch build
            found.append((name, "missing: pip install " + name if needed else "not installed: no Triton kernels", not needed))
    return found


def machine() -> list[Finding]:
    """Processor, instruction set that was chosen, threads, GPUs."""
    import torch

    from regkit.ops import native

    try:
        extension = native.extension()
        supported = ", ".join(extension.supported_instruction_sets())
        forced = "REGKIT_INSTRUCTION_SET" in os.environ
        why = (
            f"forced by REGKIT_INSTRUCTION_SET; this CPU supports {supported}"
            if forced
            else f"the best that this CPU supports of {supported}"
        )
        chosen = ("instruction set", f"{extension.instruction_set} ({why})", True)
    except ImportError as error:
        chosen = ("instruction set", str(error), False)
    gpus = [
        f"{torch.cuda.get_device_name(i)}, {torch.cuda.get_device_properties(i).total_memory >> 30} GB"
        for i in range(torch.cuda.device_count())
    ]
    why_none = "none found" if torch.version.cuda or torch.version.hip else f"none: this torch ({torch.__version__}) is built for the CPU"
    return [
        ("system", f"{platform.system()} {platform.machine()}, Python in {sys.prefix}", True),
        chosen,
        ("threads", f"{torch.get_num_threads()} of {usable_cores()} cores (torch.set_num_threads, OMP_NUM_THREADS or --threads)", True),
        ("GPU", "; ".join(gpus) or why_none, True),
    ]


def backends() -> list[Finding]:
    """The backend that each op takes, device by device, and why the others are not taken."""
    import torch

    from regkit.ops import backends as choice
    from regkit.ops import gpu_default

    gpu = torch.cuda.is_available()
    found, had = [], set()
    for op in op_names():
        have = choice.available(op)
        had |= set(have)
        try:
            on_gpu = choice.choose(op, "cuda") if gpu else next(name for name in choice.preferred(op, "cuda") if name in have)
            why = ", the faster one" if op in gpu_default.FASTER else ""
            found.append((op, f"CPU: {choice.choose(op, 'cpu')}; GPU{'' if gpu else ' (none here)'}: {on_gpu}{why}", True))
        except (NotImplementedError, ValueError) as error:
            found.append((op, str(error), False))
    reasons = {
        "reference": "plain torch, the specification, slow; taken on request (REGKIT_BACKEND, regkit.ops.backend) or for want of others",
        "cpp": "runs on CPU tensors only",
        "cuda": "runs on GPU tensors only" if "cuda" in had else "no CUDA kernels: nvcc was not found when regkit was installed",
        "triton": why_not_triton("triton" in had, gpu, choice.interpreted()),
    }
    order = f"in order of preference: {', '.join(choice.PREFERENCE['cuda'])}"
    chosen = f"the faster of those compared in {gpu_default.MEASURED}; else {order}" if gpu_default.FASTER else f"not measured yet: {order}"
    return [*found, *((f"why not {name}", reasons[name], True) for name in choice.BACKENDS), ("choice on GPUs", chosen, True)]


def why_not_triton(installed: bool, gpu: bool, interpreted: bool) -> str:
    if not installed:
        return "Triton is not installed: pip install triton (Linux)"
    if gpu:
        return "runs on GPU tensors only"
    interpreter = "it is" if interpreted else "it is not"
    return f"no GPU; on the CPU only in Triton's interpreter, slowly and on request, when TRITON_INTERPRET=1 is set ({interpreter})"


def op_names() -> list[str]:
    """The ops that are connected to backends."""
    from regkit import ops

    return [name for name in ops.__all__ if ops.available(name)]


def self_test() -> list[Finding]:
    """Every op against the reference backend on this machine, values and gradients, on odd little tensors."""
    import torch

    from regkit import ops

    random = torch.Generator().manual_seed(0)
    image, other = torch.rand(1, 2, 9, 13, 11, generator=random), torch.rand(1, 2, 9, 13, 11, generator=random)
    u, v = (torch.randn(1, 3, 9, 13, 11, generator=random) for _ in range(2))
    labels, other_labels = ((4 * x[:, :1]).to(torch.uint8) for x in (image, other))
    keypoints = torch.tensor([[[4.0, 6.0, 5.0], [5.0, 7.0, 6.0]]])
    basis = torch.randn(125, 8, generator=random)
    matrix = torch.eye(3, 4) + 0.1 * torch.randn(3, 4, generator=random)
    search = {"search_radius": 2, "stride": 1, "patch_radius": 1, "metric": "ssd"}
    cases = {
        "warp": lambda: ops.warp(image, u),
        "warp_affine": lambda: torch.cat(ops.warp_affine(image, matrix, labels=labels), 1),
        "lncc": lambda: ops.lncc(image, other, window=5),
        "warp_lncc": lambda: ops.warp_lncc(image.detach(), other.detach(), u, window=5),
        "warp_ssd": lambda: ops.warp_ssd(image.detach(), other.detach(), u),
        "compose": lambda: ops.compose(u, v),
        "integrate_velocity": lambda: ops.integrate_velocity(u),
        "invert": lambda: ops.invert(0.2 * u),
        "jacobian_determinant": lambda: ops.jacobian_determinant(u),
        "jacobian_summary": lambda: torch.stack(ops.jacobian_summary(0.3 * u)),
        "diffusion_energy": lambda: ops.diffusion_energy(u),
        "bending_energy": lambda: ops.bending_energy(u),
        "warp_labels": lambda: ops.warp_labels(labels, u, mode="majority").float(),
        "soft_dice": lambda: ops.soft_dice(labels, other_labels, u, labels=3),
        "similarity_maps": lambda: ops.similarity_maps(image[:, :1], other[:, :1], keypoints, patch_size=5),
        "mind_ssc": lambda: ops.mind_ssc(image[:, :1]),
        "smooth": lambda: ops.smooth(u),
        "upsample": lambda: ops.upsample(u, (17, 25, 21), 2.0),
        "correlate_dense": lambda: ops.correlate_dense(image, other, radius=2),
        "expected_displacement": lambda: ops.expected_displacement(image, other, keypoints, sharpness=5.0, **search),
        "best_displacement": lambda: ops.best_displacement(image, other, keypoints, **search),
        "embed_displacements": lambda: ops.embed_displacements(image, other, keypoints, basis, **search),
        "correlate_keypoints": lambda: ops.correlate_keypoints(image, other, keypoints, **search),
    }
    found = []
    for op in op_names():
        if op in cases:
            try:
                error = _disagreement(cases[op], (image, other, u, v))
                told = "agrees with the reference to" if error < TOLERANCE else "differs from the reference by"
                found.append((op, f"{told} {error:.1e} (relative, value and gradients)", error < TOLERANCE))
            except (ImportError, RuntimeError, ValueError) as error:
                found.append((op, str(error), False))
    return found


def _disagreement(call: Callable[[], "Tensor"], leaves: tuple["Tensor", ...]) -> float:
    """Largest relative RMS difference of value and gradients between the backend taken here and the reference."""
    import torch

    from regkit import ops

    def run() -> list[torch.Tensor]:
        for leaf in leaves:
            leaf.grad = None
            leaf.requires_grad_(True)
        value = call()
        if value.requires_grad:
            (value * torch.linspace(0.5, 1.5, value.numel()).view(value.shape)).sum().backward()
        return [value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    here = run()
    with ops.backend("reference"):
        wanted = run()
    if len(here) != len(wanted):
        raise RuntimeError(f"gives {len(here) - 1} gradients, the reference {len(wanted) - 1}")
    return max(float((a - b).norm() / b.norm().clamp_min(1e-12)) for a, b in zip(here, wanted))
