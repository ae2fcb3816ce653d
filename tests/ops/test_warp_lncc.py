"""warp_lncc: equals its two ops, frees what it kept, counts memory, messages. (The rest: test_every_op.py.)"""

import pytest
import torch

from regkit import ops
from tests.ops.cases import SHAPES, assert_like_reference, assert_same, displacement, randn, value_and_gradients
from tests.ops.compare import assert_close


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("padding", ["zeros", "border", "extent"])
@pytest.mark.parametrize("recompute", [False, True])
def test_equals_lncc_of_warp(dims, padding, recompute):
    fixed, moving = randn(2, 3, *SHAPES[dims]), randn(2, 3, *(n + 3 for n in SHAPES[dims]), seed=1)
    u = displacement(SHAPES[dims])

    def fused(u):
        return ops.warp_lncc(fixed, moving, u, window=5, padding=padding, fill=0.2, recompute=recompute)

    def two_ops(u):
        return ops.lncc(fixed, ops.warp(moving, u, padding=padding, fill=0.2), window=5)

    assert_same("warp_lncc", value_and_gradients(fused, (u,)), value_and_gradients(two_ops, (u,)), 1e-10)


@pytest.mark.parametrize("spatial", [(70, 60), (120, 60, 19)], ids=str)
@pytest.mark.parametrize("window", [3, 9, 21])
def test_tiles_fit_together(spatial, window):
    """Images of several tiles and chunks, in float32."""
    fixed, moving = (randn(1, 1, *spatial, seed=seed, dtype=torch.float32) for seed in (0, 1))
    u = displacement(spatial, 1, dtype=torch.float32)
    assert_like_reference("warp_lncc", lambda u: ops.warp_lncc(fixed.to(u), moving.to(u), u, window=window), (u,), 2e-5)


@pytest.mark.parametrize("window", [1, 51])
def test_windows_of_one_voxel_and_larger_than_the_image(window):
    fixed, moving, u = randn(1, 2, 6, 11, 20), randn(1, 2, 6, 11, 20, seed=1), displacement((6, 11, 20), 1)
    value = ops.warp_lncc(fixed, moving, u, window=window)
    if window == 1:  # no variance in one voxel
        assert value.item() == pytest.approx(0, abs=1e-12)
    else:
        assert_like_reference("warp_lncc", lambda u: ops.warp_lncc(fixed, moving, u, window=window), (u,), 1e-9)


def test_half_precision_images_and_float32_displacement():
    fixed, moving = (randn(1, 1, 20, 21, 22, seed=seed).half() for seed in (0, 1))
    u = displacement((20, 21, 22), 1, dtype=torch.float32)
    value, gradient = value_and_gradients(lambda u: ops.warp_lncc(fixed, moving, u, window=5), (u,))
    assert value.dtype == gradient.dtype == torch.float32
    want = value_and_gradients(lambda u: ops.warp_lncc(fixed.double(), moving.double(), u, window=5), (u.double(),))
    assert_same("half", [value, gradient], want, 2e-5)


def test_a_gradient_that_is_asked_for_twice():
    """A kept graph gives the gradient again; one that is not kept gives it in its own memory."""
    fixed, moving = randn(1, 1, 9, 10), randn(1, 1, 9, 10, seed=1)
    u = displacement((9, 10), 1).requires_grad_()
    for function in (lambda: ops.warp_lncc(fixed, moving, u, window=3), lambda: ops.lncc(fixed, ops.warp(moving, u), window=3)):
        value = -2 * function()
        first = torch.autograd.grad(value, u, retain_graph=True)[0]
        second = torch.autograd.grad(value, u, retain_graph=True)[0]
        third = torch.autograd.grad(value, u)[0]
        assert torch.equal(first, second) and torch.equal(first, third) and first.data_ptr() != second.data_ptr()


def test_gradients_accumulate_in_a_leaf():
    fixed, moving = randn(1, 1, 9, 10), randn(1, 1, 9, 10, seed=1)
    u = displacement((9, 10), 1).requires_grad_()
    for _ in range(2):
        (-ops.warp_lncc(fixed, moving, u, window=3)).backward()
    want = torch.autograd.grad(-2 * ops.lncc(fixed, ops.warp(moving, u), window=3), u)[0]
    assert_close("gradient", u.grad, want, 1e-12)


def test_no_gradient_is_computed_where_none_is_wanted():
    fixed, moving, u = randn(1, 1, 5, 6), randn(1, 1, 5, 6, seed=1), displacement((5, 6), 1).requires_grad_()
    with torch.no_grad():
        assert not ops.warp_lncc(fixed, moving, u, window=3).requires_grad
    assert torch.ops.regkit.warp_lncc(fixed, moving, u, None, 3, 0, 0.0, 1e-5, False)[1].numel() == 0


def test_weights_that_sum_to_zero_give_nan_and_no_gradient():
    a = randn(1, 1, 5, 6)
    for recompute in (False, True):

        def function(u, recompute=recompute):
            return ops.warp_lncc(a, a, u, window=3, weight=torch.zeros(1, 1, 5, 6), recompute=recompute)

        value, gradient = value_and_gradients(function, (displacement((5, 6), 1),))
        assert value.isnan() and gradient.eq(0).all()


def test_nan_in_the_moving_image_counts_only_where_it_is_sampled():
    fixed, moving, u = randn(1, 1, 9, 10), randn(1, 1, 9, 30, seed=1), displacement((9, 10), 1, size=0.5)
    moving[..., 25] = float("nan")
    assert_like_reference("warp_lncc", lambda u: ops.warp_lncc(fixed, moving, u, window=3), (u,), 1e-10)
    u[..., 4, 4] = float("nan")
    assert ops.warp_lncc(fixed, moving, u, window=3).isnan()


def test_messages():
    a, u = torch.zeros(1, 1, 5, 6), torch.zeros(1, 2, 5, 6)
    for name in ("fixed", "moving", "weight"):
        tensors = {"fixed": a, "moving": a, "weight": a}
        tensors[name] = a.clone().requires_grad_()
        with pytest.raises(TypeError, match=rf"{name} requires a gradient.*use lncc\(fixed, warp\(moving, displacement\)\)"):
            ops.warp_lncc(tensors["fixed"], tensors["moving"], u, weight=tensors["weight"])
    with pytest.raises(ValueError, match=r"spatial sizes must agree, but fixed has \(5, 6\), displacement has \(5, 7\)"):
        ops.warp_lncc(a, a, torch.zeros(1, 2, 5, 7))
    with pytest.raises(ValueError, match="channels must agree"):
        ops.warp_lncc(a, torch.zeros(1, 2, 5, 6), u)
    with pytest.raises(ValueError, match="batch size must agree"):
        ops.warp_lncc(a, a, torch.zeros(2, 2, 5, 6))
    with pytest.raises(ValueError, match="window must be a positive odd number"):
        ops.warp_lncc(a, a, u, window=4)
    with pytest.raises(ValueError, match="padding must be one of"):
        ops.warp_lncc(a, a, u, padding="reflection")
    with pytest.raises(ValueError, match="moving must have at least one voxel"):
        ops.warp_lncc(a, torch.zeros(1, 1, 0, 6), u)
    with pytest.raises(ValueError, match="weight has"):
        ops.warp_lncc(a, a, u, weight=torch.ones(1, 2, 5, 6))
    with pytest.raises(TypeError, match="moving must be floating point"):
        ops.warp_lncc(a, a.int(), u)
    with pytest.raises(ValueError, match="displacement must be"):
        ops.warp_lncc(a, a, torch.zeros(1, 3, 5, 6))
