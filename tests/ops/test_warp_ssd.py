"""warp_ssd: equals its two ops, keeps a gradient alone, messages. (The rest: test_every_op.py.)"""

import pytest
import torch

from regkit import ops
from tests.ops.cases import SHAPES, assert_like_reference, assert_same, displacement, randn, value_and_gradients


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("padding", ["zeros", "border", "extent"])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_mean_square_of_two_ops(dims, padding, weighted):
    fixed, moving = randn(2, 3, *SHAPES[dims]), randn(2, 3, *(n + 3 for n in SHAPES[dims]), seed=1)
    u, weight = displacement(SHAPES[dims]), randn(2, 1, *SHAPES[dims], seed=2).abs() if weighted else None

    def two_ops(u):
        square = (ops.warp(moving, u, padding=padding, fill=0.2) - fixed).square()
        return square.mean() if weight is None else (weight * square).sum() / (3 * weight.sum())

    def fused(u):
        return ops.warp_ssd(fixed, moving, u, weight=weight, padding=padding, fill=0.2)

    assert_same("warp_ssd", value_and_gradients(fused, (u,)), value_and_gradients(two_ops, (u,)), 1e-12)


def test_many_rows_for_many_threads():
    fixed, moving, u = randn(1, 12, 20, 30, 33), randn(1, 12, 20, 30, 33, seed=1), displacement((20, 30, 33), 1)
    assert_like_reference("warp_ssd", lambda u: ops.warp_ssd(fixed.to(u), moving.to(u), u), (u.float(),), 2e-5)


@pytest.mark.parametrize(
    "types", [(torch.float16, torch.float16), (torch.bfloat16, torch.float32), (torch.float32, torch.float64)], ids=str
)
def test_images_of_other_dtypes_than_the_displacement(types):
    fixed, moving = (randn(1, 4, 9, 10, 21, seed=seed).to(dtype) for seed, dtype in enumerate(types))
    u = displacement((9, 10, 21), 1, dtype=torch.float32)
    value, gradient = value_and_gradients(lambda u: ops.warp_ssd(fixed, moving, u), (u,))
    assert value.dtype == (torch.float64 if torch.float64 in types else torch.float32) and gradient.dtype == torch.float32
    want = value_and_gradients(lambda u: ops.warp_ssd(fixed.double(), moving.double(), u), (u.double(),))
    assert_same("warp_ssd", [value, gradient], want, 2e-5)


def test_no_gradient_is_computed_where_none_is_wanted():
    fixed, moving, u = randn(1, 1, 5, 6), randn(1, 1, 5, 6, seed=1), displacement((5, 6), 1).requires_grad_()
    with torch.no_grad():
        assert not ops.warp_ssd(fixed, moving, u).requires_grad
    assert torch.ops.regkit.warp_ssd(fixed, moving, u, None, 0, 0.0, False)[1].numel() == 0


def test_weights_that_sum_to_zero_and_no_voxels_give_nan_and_no_gradient():
    a = randn(1, 1, 5, 6)
    value, gradient = value_and_gradients(lambda u: ops.warp_ssd(a, a, u, weight=torch.zeros(1, 1, 5, 6)), (displacement((5, 6), 1),))
    assert value.isnan() and gradient.eq(0).all()
    value, gradient = value_and_gradients(lambda u: ops.warp_ssd(a[:, :, :0], a, u), (torch.zeros(1, 2, 0, 6),))
    assert value.isnan() and gradient.shape == (1, 2, 0, 6)


def test_nan_counts_only_where_it_is_sampled():
    fixed, moving, u = randn(1, 1, 9, 10), randn(1, 1, 9, 30, seed=1), displacement((9, 10), 1, size=0.5)
    moving[..., 25] = float("nan")
    assert_like_reference("warp_ssd", lambda u: ops.warp_ssd(fixed, moving, u), (u,), 1e-10)
    u[..., 4, 4] = float("nan")
    assert ops.warp_ssd(fixed, moving, u).isnan()


def test_messages():
    a, u = torch.zeros(1, 1, 5, 6), torch.zeros(1, 2, 5, 6)
    for name in ("fixed", "moving", "weight"):
        tensors = {"fixed": a, "moving": a, "weight": a}
        tensors[name] = a.clone().requires_grad_()
        with pytest.raises(TypeError, match=rf"{name} requires a gradient, but warp_ssd.*use \(warp\(moving, displacement\) - fixed\)"):
            ops.warp_ssd(tensors["fixed"], tensors["moving"], u, weight=tensors["weight"])
    with pytest.raises(ValueError, match="channels must agree"):
        ops.warp_ssd(a, torch.zeros(1, 2, 5, 6), u)
    with pytest.raises(ValueError, match="padding must be one of"):
        ops.warp_ssd(a, a, u, padding="reflection")
    with pytest.raises(ValueError, match="weight has"):
        ops.warp_ssd(a, a, u, weight=torch.ones(1, 2, 5, 6))
