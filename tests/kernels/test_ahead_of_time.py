"""Every Triton kernel compiles for GPUs of three makes, and none spills registers to memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

ROOT = Path(__file__).parents[2]


# All that kernels are specialised by for one target, a test each, so that workers share them.
@pytest.mark.parametrize(("target", "run"), [("sm_90", 0), ("sm_90", 1), ("sm_90", 2), ("sm_80", 1), ("gfx942", 0)])
def test_every_kernel_compiles(target, run, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.kernels.ahead_of_time", target, str(run)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    compiled = [json.loads(line) for line in done.stdout.splitlines()]
    assert {c["kernel"] for c in compiled} >= {f"regkit.kernels.warp.{name}" for name in ("_forward", "_grad_image", "_grad_displacement")}
    spilled = [f"{c['kernel']} of {c['case']}: {c['stack']} bytes" for c in compiled if c.get("stack")]
    assert not spilled, f"local memory used: {spilled}"
