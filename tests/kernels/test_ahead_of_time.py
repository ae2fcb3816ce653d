"""Every Triton kernel compiles for GPUs of three makes, and none spills registers to memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

ROOT = Path(__file__).parents[2]


# Each target once and each of what kernels are specialised by once, a test each, so that workers share them: a minute and more apiece.
# REGKIT_ALL_TARGETS=1 compiles everything for every target.
TARGETS = ("sm_90", "sm_80", "gfx942")
ALL = os.environ.get("REGKIT_ALL_TARGETS") == "1"


@pytest.mark.parametrize(("target", "run"), [(t, r) for n, t in enumerate(TARGETS) for r in range(3) if ALL or r == n])
def test_every_kernel_compiles(target, run, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.kernels.ahead_of_time", target, str(run)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    compiled = [json.loads(line) for line in done.stdout.splitlines()]
    assert {c["kernel"] for c in compiled} >= {f"regkit.kernels.warp.{name}" for name in ("_forward", "_grad_image", "_grad_displacement")}
    spilled = [f"{c['kernel']} of {c['case']}: {c['stack']} bytes" for c in compiled if c.get("stack")]
    assert not spilled, f"local memory used: {spilled}"
