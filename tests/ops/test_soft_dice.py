"""soft_dice: against warped one-hot maps, labels of all kinds, absent ones, NaN, messages. (The rest: test_every_op.py.)"""

import pytest
import torch
import torch.nn.functional as F

from regkit import ops
from tests.ops.cases import SHAPES, assert_same, displacement, label_map, randn, value_and_gradients
from tests.ops.compare import assert_close


def by_one_hot(fixed, moving, u, labels, padding="zeros", eps=1e-5):
    f, m = (torch.stack([x[:, 0] == label for label in labels], 1).to(u.dtype) for x in (fixed, moving))
    warped, axes = ops.warp(m, u, padding=padding), tuple(range(2, f.dim()))
    return (2 * (f * warped).sum(axes) + eps) / (warped.sum(axes) + f.sum(axes) + eps)


def maps(dims: int, dtype=torch.uint8):
    return label_map(SHAPES[dims], seed=1).to(dtype), label_map(tuple(n + 2 for n in SHAPES[dims]), seed=2).to(dtype)


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("dims", [2, 3])
def test_equals_dice_of_one_hot_maps(dims, padding):
    (fixed, moving), u, labels = maps(dims), displacement(SHAPES[dims], size=3.0), (3, 0, 2)
    got = value_and_gradients(lambda u: ops.soft_dice(fixed, moving, u, labels=labels, padding=padding, eps=0.5), (u,))
    want = value_and_gradients(lambda u: by_one_hot(fixed, moving, u, labels, padding, eps=0.5), (u,))
    assert_same("soft_dice", got, want, 1e-12)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.uint16, torch.int16, torch.int32, torch.uint32, torch.int64, torch.uint64], ids=str
)
def test_labels_of_every_integer_dtype(dtype):
    (fixed, moving), u = maps(3), displacement(SHAPES[3], dtype=torch.float32)
    want = ops.soft_dice(fixed, moving, u, labels=3)
    assert torch.equal(ops.soft_dice(fixed.to(dtype), moving.to(dtype), u, labels=(1, 2, 3)), want)
    assert torch.equal(ops.soft_dice(fixed, moving.to(dtype), u, labels=3), want)


def test_scattered_and_negative_labels():
    (fixed, moving), u = maps(3, torch.int32), displacement(SHAPES[3], dtype=torch.float32)
    values = torch.tensor([7, -12, 2035, 900000], dtype=torch.int32)
    got = ops.soft_dice(values[fixed.long()], values[moving.long()], u, labels=(900000, -12))
    assert torch.equal(got, ops.soft_dice(fixed, moving, u, labels=(3, 1)))
    huge = torch.tensor([2**62, -(2**62), 2, 2**33 + 1])
    assert torch.equal(
        ops.soft_dice(huge[fixed.long()], huge[moving.long()], u, labels=(2, 1)), ops.soft_dice(fixed, moving, u, labels=(2, 9))
    )


def test_more_labels_than_a_byte_holds():
    fixed, moving = (torch.randint(0, 400, (1, 1, 9, 10, 11), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    u = displacement((9, 10, 11), 1)
    got = value_and_gradients(lambda u: ops.soft_dice(fixed, moving, u, labels=400), (u,))
    with ops.backend("reference"):
        want = value_and_gradients(lambda u: ops.soft_dice(fixed, moving, u, labels=400), (u,))
    assert_same("soft_dice", got, want, 1e-12)


def test_identity_is_perfect_and_absent_labels_do_not_disturb():
    fixed, u = label_map((8, 9, 10), 1), torch.zeros(1, 3, 8, 9, 10, dtype=torch.float64, requires_grad=True)
    assert ops.soft_dice(fixed, fixed, u, labels=(0, 1, 2, 3, 77)).tolist() == [[1.0] * 5]
    dice = ops.soft_dice(fixed, fixed, u, labels=(1, 77), eps=0.0)
    assert dice[0, 0] == 1 and dice[0, 1].isnan()
    (gradient,) = torch.autograd.grad(dice.nanmean(), u)
    assert gradient.isfinite().all()


def test_gradient_is_zero_where_labels_do_not_meet():
    labels = torch.zeros(1, 1, 20, 20, dtype=torch.uint8)
    labels[..., :10] = 1
    u = torch.full((1, 2, 20, 20), 0.3, requires_grad=True)
    ops.soft_dice(labels, labels, u, labels=1, padding="border").sum().backward()
    assert (u.grad[0, 1, :, 9] != 0).all()
    u.grad[0, :, :, 9] = 0
    assert (u.grad == 0).all()


@pytest.mark.parametrize("implementation", ["cpp", "reference"])
def test_nan_displacement_loses_its_item_alone(implementation):
    (fixed, moving), u = maps(3), displacement(SHAPES[3], dtype=torch.float32)
    u[1, 2, 3, 4, 5] = float("nan")
    u[0, 2, 3, 4, 5] = float("inf")
    with ops.backend(implementation):
        dice, gradient = value_and_gradients(lambda u: ops.soft_dice(fixed, moving, u, labels=3), (u,))
    assert dice[0].isfinite().all() and dice[1].isnan().all()
    assert gradient[0].isfinite().all() and gradient[1].isnan().all()


def test_sums_over_many_voxels_are_exact():
    """3 million voxels of weight 1: float32 sums would stop at 16.7 million, and lose the quarter voxels long before."""
    labels = torch.ones(1, 1, 2100, 1500, dtype=torch.uint8)
    u = torch.zeros(1, 2, 2100, 1500)
    u[:, 0, 0] = -0.25
    both, warped, still = torch.ops.regkit.soft_dice(labels, labels, u, [1], 0)[0, :, 0].tolist()
    assert (both, warped, still) == (2100 * 1500 - 375, 2100 * 1500 - 375, 2100 * 1500)


def test_maps_with_other_strides():
    (fixed, moving), u = maps(3), displacement(SHAPES[3])
    strided = [x.transpose(2, 4).contiguous().transpose(2, 4) for x in (fixed, moving, u)]
    assert_close("dice", ops.soft_dice(*strided, labels=3), ops.soft_dice(fixed, moving, u, labels=3), 0.0)


def test_op_contract():
    (fixed, moving), u = maps(3), displacement(SHAPES[3], dtype=torch.float32)
    torch.library.opcheck(torch.ops.regkit.soft_dice.default, (fixed, moving, u.clone().requires_grad_(), [1, 3], 1))
    grad = randn(2, 3, 2)
    torch.library.opcheck(torch.ops.regkit.soft_dice_backward.default, (grad, fixed, moving, u, [1, 3], 0))


def test_a_loss_falls_as_the_labels_align():
    """A square that lies 2 voxels off finds its place by gradient descent."""
    fixed, moving = torch.zeros(2, 1, 1, 24, 24, dtype=torch.uint8)
    fixed[..., 8:16, 8:16], moving[..., 10:18, 8:16] = 1, 1
    shift = torch.zeros(1, 2, 1, 1, requires_grad=True)
    descent = torch.optim.Adam([shift], lr=0.1)
    for _ in range(60):
        descent.zero_grad()
        (1 - ops.soft_dice(fixed, moving, shift.expand(1, 2, 24, 24), labels=1).mean()).backward()
        descent.step()
    assert F.l1_loss(shift.detach().flatten(), torch.tensor([2.0, 0.0])) < 0.1


ONE = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((ONE.float(), ONE), {}, TypeError, "fixed_labels must be integers"),
        ((ONE, ONE.float()), {}, TypeError, "moving_labels must be integers"),
        ((ONE.expand(1, 2, 4, 4), ONE), {}, ValueError, "fixed_labels must be a label map with one channel"),
        ((ONE[..., :3], ONE), {}, ValueError, "size must agree"),
        ((ONE, ONE[:0]), {}, ValueError, "batch size must agree"),
        ((ONE, ONE[..., :0]), {}, ValueError, "at least one voxel"),
        ((ONE, ONE), {"labels": ()}, ValueError, "labels must be 1 to 65534 labels, but 0 came"),
        ((ONE, ONE), {"labels": 0}, ValueError, "labels must be at least 1"),
        ((ONE, ONE), {"labels": (1, 2, 1)}, ValueError, "labels must differ"),
        ((ONE, ONE), {"labels": (1, 2**30)}, ValueError, "number them anew"),
        ((ONE, ONE), {"eps": -1.0}, ValueError, "eps must be at least 0"),
        ((ONE, ONE), {"padding": "extent"}, ValueError, "padding must be one of zeros, border"),
    ],
)
def test_messages(arguments, options, error, message):
    with pytest.raises(error, match=message):
        ops.soft_dice(*arguments, torch.zeros(1, 2, 4, 4), **{"labels": 2, **options})
