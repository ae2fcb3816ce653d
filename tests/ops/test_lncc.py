"""lncc: the definition, bright images, weights, large windows, messages. (The rest: test_every_op.py.)"""

import pytest
import torch

from regkit import ops
from tests.ops.cases import SHAPES, assert_like_reference, assert_same, randn, reference, value_and_gradients
from tests.ops.compare import assert_close


def test_definition_in_one_window():
    """The window of the middle voxel of a 3 x 3 image is the whole image."""
    a, b = randn(1, 1, 3, 3), randn(1, 1, 3, 3, seed=1)
    correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
    assert ops.lncc(a, b, window=3, reduction="none", eps=0.0)[0, 0, 1, 1].item() == pytest.approx(correlation.item() ** 2)


def test_one_for_linearly_related_images():
    a = randn(1, 1, 9, 10, 11)
    inside = (slice(None), slice(None), *[slice(2, -2)] * 3)  # at the border the padding, which is 0, spoils the relation
    assert_close("map", ops.lncc(a, 3 - 2 * a, window=5, reduction="none", eps=0.0)[inside], torch.ones(1, 1, 5, 6, 7), 1e-12)


def test_mean_is_the_mean_of_the_map():
    a, b = randn(2, 3, *SHAPES[3]), randn(2, 3, *SHAPES[3], seed=1)
    ncc = ops.lncc(a, b, window=5, reduction="none")
    assert_close("mean", ops.lncc(a, b, window=5), ncc.mean(), 1e-12)
    weight = randn(2, 1, *SHAPES[3], seed=2).abs()
    assert_close("weighted mean", ops.lncc(a, b, window=5, weight=weight), (weight * ncc).sum() / weight.sum() / 3, 1e-12)


def test_a_mask_as_weight():
    a, b = randn(1, 1, 12, 13, 14), randn(1, 1, 12, 13, 14, seed=1)
    mask = torch.zeros(1, 1, 12, 13, 14, dtype=torch.bool)
    mask[..., 3:6, 4:7, 5:8] = True
    ncc = ops.lncc(a, b, window=3, reduction="none")
    assert_close("mean", ops.lncc(a, b, window=3, weight=mask), ncc[mask].mean(), 1e-12)
    gradient = value_and_gradients(lambda a: ops.lncc(a, b, window=3, weight=mask), (a,))[1]
    assert gradient[..., 7:, :, :].abs().max() < 1e-14 * gradient.abs().max() and gradient[..., 3:6, 4:7, 5:8].ne(0).all()


def test_weights_that_sum_to_zero_give_nan_and_no_gradient():
    a = randn(1, 1, 5, 6)
    value, gradient = value_and_gradients(lambda a: ops.lncc(a, randn(1, 1, 5, 6), weight=torch.zeros(1, 1, 5, 6)), (a,))
    assert value.isnan() and gradient.eq(0).all()


@pytest.mark.parametrize("window", [1, 3, 7, 9, 15, 51])
@pytest.mark.parametrize("spatial", [(11, 20), (6, 11, 20)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_any_window_also_larger_than_the_image(window, spatial, reduction):
    a, b = randn(1, 2, *spatial), randn(1, 2, *spatial, seed=1)
    if window == 1:  # no variance in one voxel
        assert ops.lncc(a, b, window=1).item() == pytest.approx(0, abs=1e-12)
    else:
        assert_like_reference("lncc", lambda a, b: ops.lncc(a, b, window=window, reduction=reduction), (a, b), 1e-9)


@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
def test_bright_images_lose_nothing_in_float32(offset):
    a, b = (randn(1, 1, 40, 41, 42, seed=seed, dtype=torch.float32) + offset for seed in (0, 1))

    def lncc(a, b):
        return ops.lncc(a, b, reduction="none")

    inside = (slice(None), slice(None), *[slice(8, -8)] * 3)
    got, want = value_and_gradients(lncc, (a, b)), reference(lncc, (a, b))
    assert_same("inside", [x[inside] for x in got], [x[inside] for x in want], 2e-4)
    assert_close("value", got[0], want[0], 2e-4)


def test_long_images_do_not_drift():
    """Running sums over many planes, past a bright block."""
    a, b = (randn(1, 1, 300, 9, 17, seed=seed, dtype=torch.float32) for seed in (0, 1))
    a[..., 20:40, :, :] *= 100
    b[..., 20:40, :, :] *= 100
    assert_like_reference("lncc", lambda a, b: ops.lncc(a, b, reduction="none"), (a, b), 1e-3)


def test_constant_images_are_unrelated_and_have_finite_gradients():
    a, b = torch.full((1, 1, 12, 13, 14), 5.0), randn(1, 1, 12, 13, 14, dtype=torch.float32)
    zero = torch.zeros(1, 1, 12, 13, 14)
    assert ops.lncc(zero, b).item() == 0
    inside = (slice(None), slice(None), *[slice(4, -4)] * 3)
    assert ops.lncc(a, b, reduction="none")[inside].abs().max() < 1e-3
    for x in (zero, a):
        assert all(t.isfinite().all() for t in value_and_gradients(ops.lncc, (x, b)))


def test_no_gradient_is_computed_where_none_is_wanted():
    a, b = randn(1, 1, 5, 6).requires_grad_(), randn(1, 1, 5, 6)
    with torch.no_grad():
        assert not ops.lncc(a, b).requires_grad
    assert [t.numel() for t in torch.ops.regkit.lncc(a, b, None, 3, 1e-5, False, True)[1:]] == [0, 30]


def test_messages():
    a = torch.zeros(1, 1, 5, 6)
    with pytest.raises(ValueError, match="window must be a positive odd number"):
        ops.lncc(a, a, window=4)
    with pytest.raises(ValueError, match=r"shapes must agree, but a has \(1, 1, 5, 6\), b has \(1, 1, 5, 7\)"):
        ops.lncc(a, torch.zeros(1, 1, 5, 7))
    with pytest.raises(TypeError, match="b must be floating point"):
        ops.lncc(a, a.int())
    with pytest.raises(ValueError, match="weight has"):
        ops.lncc(a, a, weight=torch.ones(1, 2, 5, 6))
    with pytest.raises(ValueError, match="weight is for reduction='mean'"):
        ops.lncc(a, a, weight=a, reduction="none")
    with pytest.raises(ValueError, match="reduction must be one of mean, none"):
        ops.lncc(a, a, reduction="sum")
    with pytest.raises(ValueError, match="a must be"):
        ops.lncc(a[0], a[0])
