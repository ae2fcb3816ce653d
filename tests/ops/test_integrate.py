"""integrate_velocity: the flow itself, what is kept for backward, border, NaN, messages. (The rest: test_every_op.py.)"""

import pytest
import torch

from regkit import ops
from tests.ops.cases import SHAPES, assert_like_reference, displacement, randn
from tests.ops.compare import assert_close


def centred(size: tuple[int, ...]) -> torch.Tensor:
    """Positions relative to the middle, (1, D, *size)."""
    return torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in size], indexing="ij"))[None]


def test_a_linear_velocity_flows_along_the_matrix_exponential():
    """x' = A x leads to exp(A) x; interpolation of a linear field is exact, and 2^steps Euler steps converge to it."""
    a = torch.tensor([[0.02, -0.3], [0.3, -0.05]], dtype=torch.float64)
    x = centred((41, 45))
    velocity = torch.einsum("de,bexy->bdxy", a, x)
    want = torch.einsum("de,bexy->bdxy", torch.linalg.matrix_exp(a) - torch.eye(2), x)
    inside = (slice(None), slice(None), slice(12, -12), slice(12, -12))
    errors = [(ops.integrate_velocity(velocity, steps=k) - want)[inside].abs().max().item() for k in (5, 6, 12)]
    assert errors[0] < 0.05 and errors[1] < 0.6 * errors[0] and errors[2] < 1e-3


@pytest.mark.parametrize("dims", [2, 3])
def test_is_composition_with_itself(dims):
    velocity = displacement(SHAPES[dims])
    u = velocity / 8
    for _ in range(3):
        u = ops.compose(u, u)
    assert_close("displacement", ops.integrate_velocity(velocity, steps=3), u, 1e-14)


@pytest.mark.parametrize("dims", [2, 3])
def test_no_step_returns_the_velocity(dims):
    velocity = displacement(SHAPES[dims]).requires_grad_()
    u = ops.integrate_velocity(velocity, steps=0)
    assert torch.equal(u, velocity) and u.data_ptr() != velocity.data_ptr()
    weight = randn(*velocity.shape)
    assert torch.equal(torch.autograd.grad(u, velocity, weight)[0], weight)


def test_minus_the_velocity_undoes():
    x = centred((40, 44))
    velocity = 2 * torch.exp(-x.square().sum(1, keepdim=True) / 100) * torch.tensor([1.0, -0.7], dtype=torch.float64).view(1, 2, 1, 1)
    u, v = ops.integrate_velocity(velocity, steps=9), ops.integrate_velocity(-velocity, steps=9)
    assert ops.compose(u, v).abs().max() < 0.02 < u.abs().max()


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("dims", [2, 3])
def test_saved_steps_change_nothing_but_what_is_kept(dims, steps):
    velocity = displacement(SHAPES[dims], dtype=torch.float32)
    kept, results = [], []
    for save in (False, True):
        leaf, sizes = velocity.clone().requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t):
            u = ops.integrate_velocity(leaf, steps=steps, save_steps=save)
        weight = randn(*u.shape, dtype=torch.float32)
        again = torch.autograd.grad(u, leaf, weight, retain_graph=True)[0]
        results.append((u, torch.autograd.grad(u, leaf, weight)[0]))
        assert torch.equal(again, results[-1][1])  # what is kept is still there for a second time
        kept.append(sum(sizes))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert kept == [velocity.numel(), steps * velocity.numel()]


def test_nothing_is_kept_without_a_gradient():
    velocity = displacement(SHAPES[3])
    assert torch.ops.regkit.integrate_velocity(velocity, 3, False)[1].numel() == 0
    with torch.no_grad():
        assert not ops.integrate_velocity(velocity.requires_grad_(), save_steps=True).requires_grad


@pytest.mark.parametrize("spatial", [(3, 70), (2, 40, 34), (34, 2, 17)], ids=str)
def test_far_beyond_the_border(spatial):
    velocity = displacement(spatial, size=30.0)
    assert_like_reference("integrate_velocity", lambda v: ops.integrate_velocity(v, steps=4), (velocity,), 1e-11)


@pytest.mark.parametrize("spatial", [(12, 20), (10, 12, 40)], ids=str)
def test_nan_spreads_as_in_the_reference(spatial):
    velocity = displacement(spatial, batch=1, size=0.4)
    velocity[(0, 0, *(n // 2 for n in spatial))] = float("nan")
    assert_like_reference("integrate_velocity", lambda v: ops.integrate_velocity(v, steps=2), (velocity,), 1e-12)


def test_messages():
    with pytest.raises(ValueError, match=r"velocity must be \(B, D, \*spatial\)"):
        ops.integrate_velocity(randn(1, 3, 4, 5))
    with pytest.raises(TypeError, match="velocity must be floating point"):
        ops.integrate_velocity(randn(1, 2, 4, 5).int())
    with pytest.raises(ValueError, match="steps must be at least 0, but came as -1"):
        ops.integrate_velocity(randn(1, 2, 4, 5), steps=-1)
