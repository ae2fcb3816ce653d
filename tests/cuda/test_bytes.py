"""The bytes a voxel that a kernel's header declares are those of the arrays it is given: nothing is read or written besides."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from regkit import ops
from regkit.ops import cuda, warp_lncc_cuda
from tests.ops.cases import displacement, randn

ROOT = Path(__file__).resolve().parents[2]
SHAPE, STEPS = (4, 11, 37), 6
VOXELS = 2 * 4 * 11 * 37
SMALL = 1024  # bytes: scalars, and sums of blocks, count nothing


@dataclass(frozen=True)
class Declared:
    """What a file's header says of a launcher, and how many bytes a voxel that is, of float32 and one channel in 3-D."""

    file: str
    words: str
    bytes: int


DECLARED = {
    "warp_float32": Declared("warp.cu", "forward 12 + 8C (u, image, out)", 20),
    "warp_grad_displacement_float32": Declared("warp.cu", "by u 24 + 8C (u, gradient, image, out)", 32),
    "warp_grad_image_float32": Declared("warp_grad_image.cu", "u 12 and gradient 4C in, 4C of sums out", 20),
    "warp_ssd": Declared("warp_ssd.cu", "24 + 2sC (u, fixed, moving, gradient)", 32),
    "warp_grad_image_last_float32": Declared("warp_grad_image_last.cu", "u 12 and gradient 4C in, 4C of sums out", 44),  # four channels
    "lncc_windows": Declared("lncc.cu", "windows read 8 and write 3 adjoints, 12", 20),
    "lncc_gradient": Declared("lncc.cu", "the gradient reads those and the images, 20, and\n// writes 4", 24),
    "integrate_first_steps": Declared("integrate.cu", "The first four steps in one pass 24 too", 24),
    "integrate_step": Declared("integrate.cu", "a step 24 (u, out", 24),
    "integrate_step_backward": Declared("integrate_backward.cu", "12 (u) + 12 (g) + 12 (out)", 36),
    "correlate_dense": Declared("correlate_dense.cu", "forward reads 2 C s and writes L s", 4 * (2 + 27)),
    "correlate_dense_backward": Declared("correlate_dense.cu", "a gradient reads L s + 2 C s and writes C s", 4 * (27 + 3)),
}
UNREAD = {"integrate_step_backward": {4}}  # what is scattered, while steps are of a voxel at most


@pytest.fixture
def moved(device, monkeypatch) -> dict[str, set[int]]:
    """Bytes a voxel of the arrays of every call, by launcher."""
    found: dict[str, set[int]] = {}
    run = cuda.run

    def counted(name, *args, device):
        arrays = {a.data_ptr(): a.nbytes for n, a in enumerate(args) if isinstance(a, torch.Tensor) and n not in UNREAD.get(name, ())}
        found.setdefault(name, set()).add(round(sum(size for size in arrays.values() if size > SMALL) / VOXELS))
        run(name, *args, device=device)

    monkeypatch.setattr(cuda, "run", counted)
    return found


def test_arrays_are_what_headers_declare(device, moved):
    a, b = (randn(2, 1, *SHAPE, seed=seed, dtype=torch.float32).to(device).requires_grad_() for seed in (1, 2))
    u = (0.1 * displacement(SHAPE, dtype=torch.float32)).to(device).requires_grad_()
    four = randn(2, 4, *SHAPE, seed=3, dtype=torch.float32).to(device, memory_format=torch.channels_last_3d)
    with ops.backend("cuda"):
        ops.warp(a, u).sum().backward()
        ops.warp_ssd(a.detach(), b.detach(), u).backward()
        torch.ops.regkit.warp_backward(four, four, u.detach(), 0, 0.0, True, False)
        ops.lncc(a, b.detach(), window=5).backward()
        ops.correlate_dense(a, b, radius=1).sum().backward()
        scatter = moved["warp_grad_image_float32"].copy()
        ops.integrate_velocity(u, steps=STEPS).sum().backward()
        moved["warp_grad_image_float32"] = scatter  # an integration's has three channels, and nothing to do here
    for name, declared in DECLARED.items():
        header = (ROOT / "csrc/cuda" / declared.file).read_text("utf-8").split("#include")[0]
        assert declared.words in header, f"{declared.file} declares something else"
        assert moved.pop(name) == {declared.bytes}, name
    assert set(moved) == {"integrate_clear"}  # zeros, where steps are larger


def test_warp_lncc_is_two_sweeps_of_a_warp(device, moved):
    a, b = (randn(2, 1, *SHAPE, seed=seed, dtype=torch.float32).to(device) for seed in (1, 2))
    u = (0.1 * displacement(SHAPE, dtype=torch.float32)).to(device).requires_grad_()
    with ops.backend("cuda"):
        ops.warp_lncc(a, b, u, window=5).backward()
    assert moved == {"warp_float32": {20}, "lncc_windows": {20}, "lncc_gradient_of_warp": {48}}
    header = (ROOT / "csrc/cuda/lncc.cu").read_text("utf-8").split("#include")[0]
    assert "it reads\n// 20 as above, u and the moving image, 16, and writes 12" in header
    assert "20 for the warp, 20 for\nthe first sweep of local NCC, 48 for the second" in warp_lncc_cuda.__doc__
