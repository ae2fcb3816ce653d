"""A whole registration on a GPU: where the CPU's goes, up to rounding; and a step of the refinement in a CUDA graph is the step."""

import numpy as np
import pytest
import torch

from regkit import register
from regkit.geometry import Composite
from regkit.registration.config import PRESETS
from regkit.registration.device import resolve
from regkit.registration.replay import EAGER, Replayed
from tests.registration.anatomy import grid_at, make_pair, wave
from tests.registration.variants import variants

pytestmark = pytest.mark.gpu

CASES = variants(PRESETS["generic"])


@pytest.mark.parametrize("name", CASES)
def test_goes_where_the_cpu_goes(name):
    grid = grid_at((48, 44, 40), 2.8)
    pair = make_pair(grid, grid_at((46, 48, 44), 2.9, (4, 3, -5)), Composite([wave(grid, 6.0)]))
    results = {device: register(pair.fixed, pair.moving, config=CASES[name], device=device) for device in ("cpu", "cuda")}
    record = results["cuda"].record
    assert record.device.startswith("cuda (") and record.peak_gpu_memory_mb > 0
    points = grid.to_world(np.stack(np.meshgrid(*[np.arange(8, n - 8, 4) for n in grid.shape], indexing="ij"), -1).reshape(-1, 3))
    apart = np.linalg.norm(results["cuda"].transform.apply(points) - results["cpu"].transform.apply(points), axis=1)
    assert apart.mean() < 0.1 and np.percentile(apart, 99) < 0.5, f"mm apart: mean {apart.mean():.3f}, largest {apart.max():.3f}"
    similar = [results[device].record.metrics["similarity_after"] for device in results]
    assert similar[1] == pytest.approx(similar[0], abs=5e-3)


def test_a_replayed_step_is_the_step():
    device = resolve("cuda")
    x, y = (torch.zeros(5, device=device) for _ in range(2))

    def step_of(t: torch.Tensor):
        def step() -> torch.Tensor:
            t.mul_(0.5).add_(1.0)
            return t.sum()

        return step

    replayed, plain = Replayed(step_of(x), device), step_of(y)
    for _ in range(EAGER + 4):
        assert float(replayed()) == float(plain())
    assert replayed.graph is not None and torch.equal(x, y)
