"""Local NCC in Triton: windows of any size, running sums that start anew, volumes in groups. (The rest: test_triton.py.)"""

import pytest
import torch

from regkit import ops
from regkit.ops.backends import interpreted
from tests.ops.cases import assert_same, randn, reference, value_and_gradients

pytest.importorskip("triton", reason="Triton is not installed")

from regkit.kernels import lncc as kernels  # noqa: E402 (Triton must be there)

DEVICE = "cpu" if interpreted() else "cuda"
pytestmark = [] if interpreted() else [pytest.mark.gpu]


def assert_follows_reference(function, tensors, tolerance):
    with ops.backend("triton"):
        got = value_and_gradients(function, tuple(t.to(DEVICE) for t in tensors))
    assert_same("lncc", [g.cpu() for g in got], reference(function, tensors), tolerance)


@pytest.mark.parametrize("spatial", [(4, 20), (2, 3, 20)], ids=str)
@pytest.mark.parametrize("window", [17, 51])
def test_large_windows(window, spatial):
    assert_follows_reference(lambda a, b: ops.lncc(a, b, window=window), (randn(1, 1, *spatial), randn(1, 1, *spatial, seed=1)), 1e-9)


def test_window_of_one_voxel():
    a, b = randn(1, 1, 4, 5).to(DEVICE), randn(1, 1, 4, 5, seed=1).to(DEVICE)
    with ops.backend("triton"):
        assert ops.lncc(a, b, window=1).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("spatial", [(15, 33), (9, 10, 7)], ids=str)
def test_chunks_and_groups_fit_together(spatial, monkeypatch):
    monkeypatch.setattr(kernels, "PLANES", 1)
    monkeypatch.setattr(kernels, "ROWS", 1)
    monkeypatch.setattr(kernels, "GROUP", 1)
    a, b = (randn(1, 2, *spatial, seed=seed) for seed in (0, 1))
    weight = randn(1, 1, *spatial, seed=2).abs()
    assert_follows_reference(lambda a, b: ops.lncc(a, b, window=3, weight=weight.to(a)), (a, b), 1e-10)


def test_bright_images_lose_nothing_in_float32():
    a, b = (randn(1, 1, 12, 40, seed=seed, dtype=torch.float32) + 1000 for seed in (0, 1))
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))

    def of_the_inside(a, b):
        return ops.lncc(a, b, window=3, reduction="none")[inside]

    assert_follows_reference(of_the_inside, (a, b), 1e-3)
