"""What the CUDA kernels take of an SM, as ptxas says: a ceiling for each, from how many of its blocks must fit. Compiled where nvcc is."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NVCC = shutil.which("nvcc", path="/usr/local/cuda/bin") or shutil.which("nvcc")
pytestmark = pytest.mark.skipif(NVCC is None, reason="no nvcc on PATH or in /usr/local/cuda/bin")


@dataclass(frozen=True)
class Ceiling:
    """For a block of `threads`, of which `blocks` are to fit into an SM of 65536 registers and 227 KB (sm_90)."""

    threads: int
    blocks: int
    spills: int  # bytes a thread may spill
    why: str

    @property
    def registers(self) -> int:
        return min(255, 65536 // (self.threads * self.blocks) // 8 * 8)


# By file and a pattern of the kernels' demangled names; the first that fits counts.
CEILINGS = {
    "warp.cu": {
        r"(forward|grad_displacement)<.*double, double>": Ceiling(256, 2, 0, "float64 is for checks, not for speed"),
        r"forward|nearest": Ceiling(256, 3, 0, "bound by memory: 24 warps with 2 voxels a thread cover its latency"),
        r"grad_displacement": Ceiling(256, 3, 0, "as forward; the slopes of a voxel are sums in registers"),
    },
    "warp_ssd.cu": {
        r"squares": Ceiling(256, 3, 32, "as the warp, with both images' loads in flight"),
    },
    "warp_grad_image.cu": {
        r"scatter<.*double, double>": Ceiling(256, 2, 0, "float64 is for checks, not for speed"),
        r"scatter": Ceiling(256, 3, 0, "atomics in flight: 24 warps, with 37 KB of shared memory a block"),
    },
    "warp_grad_image_last.cu": {
        r"scatter_last<3": Ceiling(128, 6, 0, "24 warps; a thread keeps 16 sums of a row of cells"),
        r"scatter_last<2": Ceiling(128, 8, 0, "32 warps; a thread keeps 8 sums"),
    },
    "correlate_dense.cu": {
        r"forward": Ceiling(128, 3, 64, "108 sums in registers, which three loads from shared memory feed with 36 numbers each"),
        r"backward": Ceiling(128, 3, 0, "36 weights and 32 sums in registers"),
    },
    "search.cu": {
        r"map|expected|best": Ceiling(256, 3, 64, "gathers in flight: 24 warps; what spills is used once a run of displacements"),
    },
    "embed.cu": {
        r"embed": Ceiling(256, 2, 16, "32 sums of the tensor cores, and two blocks: one gathers while the other multiplies"),
    },
    "integrate.cu": {
        r"first_steps<3>": Ceiling(
            1024, 1, 64, "a tile fills shared memory: one block, whose threads each keep 8 voxels for the next step"
        ),
        r"first_steps<2>": Ceiling(1024, 1, 0, "as in 3-D"),
        r"step": Ceiling(256, 4, 0, "bound by memory, as the warp, and with one component's cells at a time"),
    },
    "integrate_backward.cu": {
        r"step_backward": Ceiling(256, 4, 0, "additions in shared memory: 32 warps, with 26 KB a block"),
        r"clear": Ceiling(256, 8, 0, "writes zeros, mostly not even those"),
    },
    "lncc.cu": {
        r"windows<(3|5|7|9|11)>": Ceiling(256, 2, 80, "two blocks: one loads a plane while the other sums"),
        r"gradient<(3|5|7|9|11), 3, false>": Ceiling(256, 2, 32, "two blocks, as above"),
        r"gradient<(3|5|7|9), 3, true>": Ceiling(256, 2, 0, "two blocks; sums are not needed while a moving image is sampled"),
        r"gradient<11, 3, true>": Ceiling(256, 2, 40, "two blocks, as above"),
        r"windows|gradient": Ceiling(256, 1, 0, "larger windows, or both gradients: what a thread keeps of a plane fills its registers"),
    },
}


@pytest.fixture(scope="module", params=sorted(CEILINGS))
def kernels(request, tmp_path_factory):
    """File, and for every kernel of it: its name, registers and bytes spilled."""
    out = tmp_path_factory.mktemp("cubin") / "kernels.cubin"
    command = [NVCC, "-O3", "-std=c++17", "--expt-relaxed-constexpr", f"-I{ROOT / 'csrc'}", "-arch=sm_90", "-cubin", "-Xptxas", "-v"]
    done = subprocess.run([*command, ROOT / "csrc/cuda" / request.param, "-o", out], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    names = subprocess.run(["c++filt"], input=done.stderr, capture_output=True, text=True, check=True).stdout
    pattern = r"Compiling entry function '(.*?)' for.*?(\d+) bytes spill stores.*?Used (\d+) registers"
    found = [(name, int(registers), int(spilled)) for name, spilled, registers in re.findall(pattern, names, re.DOTALL)]
    return request.param, [(re.sub(r"\(anonymous namespace\)::|regkit::(cuda::)?", "", name), *figures) for name, *figures in found]


def test_registers_and_spills(kernels):
    file, found = kernels
    assert found, f"ptxas said nothing of {file}"
    over = []
    for name, registers, spilled in found:
        ceiling = next((c for pattern, c in CEILINGS[file].items() if re.search(rf"\b({pattern})", name)), None)
        assert ceiling is not None, f"{file}: no ceiling for {name}"
        if registers > ceiling.registers or spilled > ceiling.spills:
            over.append(
                f"{name}: {registers} registers of {ceiling.registers}, {spilled} bytes spilled of {ceiling.spills} ({ceiling.why})"
            )
    assert not over, "\n".join(over)


def test_every_file_has_ceilings():
    assert {path.name for path in ROOT.glob("csrc/cuda/*.cu")} == set(CEILINGS)
