"""Compiles, for one GPU and without having it, every specialisation of every Triton kernel that the cases of tests/ops/cases.py launch.

    python -m tests.kernels.ahead_of_time sm_90 [0 .. 2: one of RUNS alone]

The ops run on CPU tensors with Triton's launch replaced by its compiler, so that signatures, alignments and compile-time options are those
of real calls; nothing is computed. Prints one JSON line a specialisation: kernel, seconds, and for NVIDIA registers and bytes spilled.
"""

import json
import re
import subprocess
import sys
import tempfile
import time

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from regkit import ops
from regkit.kernels import launch
from regkit.ops import backends
from tests.ops.cases import SHAPES, cases, plain_cases, value_and_gradients

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

# What depends on sizes, types and options: axes, dtype, and deterministic mode with 64-bit offsets.
RUNS = [(3, torch.float32, False), (2, torch.float16, False), (3, torch.float32, True)]


class Absent:
    """What Triton's compiler asks of a driver, for a GPU that is not there."""

    def __init__(self, target: GPUTarget):
        self.target = target

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_active_torch_device(self):
        return torch.device("cuda", 0)


def resources(kernel) -> dict:
    """Registers a thread and bytes spilled, as the assembler counted them; nothing for AMD."""
    if "cubin" not in kernel.asm:
        return {}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        told = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return {"registers": int(re.search(r"REG:(\d+)", told)[1]), "stack": int(re.search(r"STACK:(\d+)", told)[1])}


def main() -> None:
    if backends.interpreted():
        sys.exit("error: Triton's interpreter compiles nothing; unset TRITON_INTERPRET")
    driver.set_active(Absent(TARGETS[sys.argv[1]]))
    seen = set()

    def compile_only(kernel, programs, *args, num_warps=4, **options):
        begin = time.perf_counter()
        compiled = kernel.warmup(*args, grid=(1,), num_warps=num_warps, enable_fp_fusion=True, **options)
        if compiled.hash not in seen:
            seen.add(compiled.hash)
            taken = round(time.perf_counter() - begin, 3)
            told = {"kernel": f"{kernel.fn.__module__}.{kernel.fn.__name__}", "case": name, "seconds": taken, **resources(compiled)}
            print(json.dumps(told), flush=True)

    launch.run = compile_only
    backends.interpreted = lambda: True  # so that CPU tensors are let through
    for dims, dtype, special in RUNS if len(sys.argv) < 3 else [RUNS[int(sys.argv[2])]]:
        spatial = SHAPES[dims]
        torch.use_deterministic_algorithms(special)
        if special:  # large tensors too
            launch.offset_type = lambda *tensors: tl.int64
        for name, case in cases(spatial, dtype=dtype).items():
            if "triton" in ops.available(name.split()[0]):
                with ops.backend("triton"):
                    value_and_gradients(case.function, case.tensors)
        for name, case in plain_cases(spatial, dtype=dtype).items():
            if "triton" in ops.available(name.split()[0]):
                with ops.backend("triton"):
                    case.function(*case.tensors)


if __name__ == "__main__":
    main()
