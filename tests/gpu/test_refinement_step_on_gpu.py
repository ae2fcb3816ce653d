"""A whole step of instance optimisation on a GPU: in a CUDA graph, compiled, and without a wait for the GPU."""

import pytest
import torch

from regkit import ops
from tests.gpu.calls import DEVICE, captured
from tests.ops.cases import assert_same, displacement, randn, value_and_gradients
from tests.ops.compare import assert_close

pytestmark = pytest.mark.gpu

SHAPE = (40, 48, 56)
STEPS = 6


class Refinement:
    """Adam on the displacement between two images: smooth, warp, lncc, diffusion, update; no step asks the GPU for a value."""

    def __init__(self):
        with torch.device(DEVICE):
            self.fixed, self.moving = (ops.smooth(ops.smooth(randn(1, 1, *SHAPE, seed=seed, dtype=torch.float32))) for seed in (0, 1))
            start = 0.3 * displacement(SHAPE, 1, seed=2, dtype=torch.float32)
        self.u = start.requires_grad_()
        self.optimiser = torch.optim.Adam([self.u], lr=0.05, capturable=DEVICE == "cuda")

    def loss(self) -> torch.Tensor:
        u = ops.smooth(self.u)
        return -ops.lncc(self.fixed, ops.warp(self.moving, u, padding="border"), window=5) + 0.1 * ops.diffusion_energy(u)

    def __call__(self) -> list[torch.Tensor]:
        self.optimiser.zero_grad(set_to_none=False)
        loss = self.loss()
        loss.backward()
        self.optimiser.step()
        return [loss.detach(), self.u.detach()]


def test_replayed_steps_go_where_eager_ones_go():
    torch.use_deterministic_algorithms(True)  # else rounding in the order of atomics grows from step to step
    try:
        eager, graph = Refinement(), Refinement()
        replay, (loss, u) = captured(graph)
        taken = 3  # steps that captured took before; capturing itself computes nothing
        losses = [float(eager()[0]) for _ in range(taken)]
        assert_close("displacement before", u, eager.u, 1e-6)
        for _ in range(STEPS):
            replay()
            losses.append(float(eager()[0]))
            assert_close("loss", loss, torch.tensor(losses[-1]), 1e-5)
        assert_close("displacement after", u, eager.u, 1e-5)
        assert losses[-1] < losses[0]
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_step_never_waits_for_the_gpu():
    step = Refinement()
    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_loss_compiled_by_inductor():
    step = Refinement()

    def loss(u):
        u = ops.smooth(2.0 * u)
        similarity = ops.lncc(step.fixed, ops.warp(step.moving, u), window=5)
        return 0.1 * ops.diffusion_energy(u) + ops.jacobian_determinant(u).relu().mean() - similarity

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True)
    assert_same("loss", value_and_gradients(compiled, (step.u,)), value_and_gradients(loss, (step.u,)), 1e-5)
