"""Losses of label maps and of jumping fields: against scipy's and torch's own functions in float64, and by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import laplace, map_coordinates

from regkit.data.random_field import smooth_random_displacement
from regkit.losses import class_map, contour_loss, label_cross_entropy, one_hot, total_variation_loss

SIZES = [(8, 9, 7), (17, 20)]
STILL = torch.zeros(1, 2, 1, 4)


def label_maps(size: tuple[int, ...], batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks of labels 0 to 3."""
    coarse = torch.randint(0, 4, (2, batch, 1, *(math.ceil(n / 4) for n in size)), generator=torch.Generator().manual_seed(0))
    return tuple(F.interpolate(x.float(), size=size, mode="nearest").to(torch.uint8) for x in coarse)


def displacement(size: tuple[int, ...]) -> torch.Tensor:
    return torch.cat([smooth_random_displacement(size, 2.0, 3.0, seed) for seed in (0, 1)]).double().requires_grad_()


def random(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("size", SIZES)
def test_contours(size):
    first, second = random(2, 2, 3, *size).detach()
    difference = np.array([[laplace(a, mode="nearest") - laplace(b, mode="nearest") for a, b in zip(*pair)] for pair in zip(first, second)])
    assert contour_loss(first, second).item() == pytest.approx((difference**2).mean(), rel=1e-10)
    lengths = np.sqrt((difference.reshape(2, -1) ** 2).sum(1))
    assert contour_loss(first, second, norm="l2").item() == pytest.approx(lengths.mean(), rel=1e-10)


def test_contours_by_hand():
    """One pixel against none: -4 there and 1 at its four neighbours; in a corner -2 and twice 1."""
    none, one, corner = torch.zeros(3, 1, 1, 5, 5)
    one[..., 2, 2] = corner[..., 0, 0] = 1
    assert contour_loss(one, none).item() == pytest.approx(20 / 25)
    assert contour_loss(one, none, norm="l2").item() == pytest.approx(20**0.5)
    assert contour_loss(corner, none).item() == pytest.approx(6 / 25)
    assert contour_loss(none + 1, none).item() == 0


@pytest.mark.parametrize("norm", ["mean-square", "l2"])
def test_gradients_of_contours(norm):
    for size in ((3, 4, 2), (4, 5)):
        first, second = (random(2, 2, *size) for _ in range(2))
        second = (second**2).detach().requires_grad_()
        assert torch.autograd.gradcheck(lambda a, b: contour_loss(a, b, norm=norm), (first, second))
    contour_loss(first, first.detach(), norm=norm).backward()
    assert not first.grad.any()  # equal maps: 0, not NaN


def test_strange_contours_are_refused():
    x = torch.rand(1, 2, 4, 4)
    with pytest.raises(ValueError, match="shape must agree"):
        contour_loss(x, x[:, :1])
    with pytest.raises(ValueError, match="norm must be one of mean-square, l2"):
        contour_loss(x, x, norm="l1")
    with pytest.raises(TypeError, match="second must be floating point"):
        contour_loss(x, x.long())


@pytest.mark.parametrize("size", SIZES)
def test_total_variation(size):
    u = displacement(size)
    array = u.detach().numpy()
    wanted = np.mean([np.abs(np.diff(array, axis=axis)).mean() for axis in range(2, array.ndim)])
    assert total_variation_loss(u).item() == pytest.approx(wanted, rel=1e-10)


def test_total_variation_by_hand():
    """A jump of 3 pixels in one of two components and one of five rows; in one place or little by little."""
    u = torch.zeros(1, 2, 6, 4)
    u[:, 0, 3:] = 3
    assert total_variation_loss(u).item() == pytest.approx(3 / 5 / 2 / 2)
    u[:, 0] = torch.linspace(0, 3, 6)[:, None]
    assert total_variation_loss(u).item() == pytest.approx(3 / 5 / 2 / 2)
    assert total_variation_loss(u[..., :1]).item() == pytest.approx(3 / 5 / 2 / 2)  # an axis of one voxel
    assert total_variation_loss(u.bfloat16()).dtype == torch.float32


def test_gradients_of_total_variation():
    for size in ((3, 4, 2), (4, 5)):
        assert torch.autograd.gradcheck(total_variation_loss, random(2, len(size), *size))
    u = torch.ones(1, 2, 4, 4, requires_grad=True)
    total_variation_loss(u).backward()
    assert not u.grad.any()


def test_strange_fields_are_refused():
    with pytest.raises(ValueError, match="number of spatial axes"):
        total_variation_loss(torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("size", SIZES)
def test_one_hot(size):
    labels, _ = label_maps(size)
    got = one_hot(labels, (3, 1))
    array = labels.numpy()[:, 0]
    np.testing.assert_array_equal(got.numpy(), np.stack([(array != 3) & (array != 1), array == 3, array == 1], 1))
    assert got.dtype == torch.float32
    assert torch.equal(got.argmax(1), class_map(labels, (3, 1)))
    assert torch.equal(one_hot(labels, 2), one_hot(labels, (1, 2)))


def test_a_label_that_the_maps_dtype_cannot_hold_is_nowhere():
    labels = torch.full((1, 1, 2, 2), 44, dtype=torch.uint8)
    assert not class_map(labels, (300,)).any()  # 300 = 44 + 256


@pytest.mark.parametrize(
    ("map_", "labels", "kind", "message"),
    [
        (torch.zeros(1, 1, 4, 4), 1, TypeError, "label_map must be integers"),
        (torch.zeros(1, 2, 4, 4, dtype=torch.uint8), 1, ValueError, "one channel"),
        (torch.zeros(4, 4, dtype=torch.uint8), 1, ValueError, "spatial axes"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), (0, 1), ValueError, "above 0, the background"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), (1, 1), ValueError, "must differ"),
    ],
)
def test_strange_label_maps_are_refused(map_, labels, kind, message):
    with pytest.raises(kind, match=message):
        one_hot(map_, labels)


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("size", SIZES)
def test_cross_entropy(size, padding):
    """scipy's linear interpolation of each one-hot map, and the logarithms of what is found; and softmax's, for AC-RegNet's."""
    fixed, moving = label_maps(size)
    u, labels = displacement(size), (1, 3)
    given = {"labels": labels, "padding": padding}
    mode = {"zeros": "grid-constant", "border": "nearest"}[padding]
    truth, maps = one_hot(fixed, labels).double().numpy(), one_hot(moving, labels).double().numpy()
    places = u.detach().numpy() + np.indices(size)
    p = np.array([[map_coordinates(m, at, order=1, mode=mode) for m in channels] for channels, at in zip(maps, places)])
    right = (p * truth).sum(1)
    assert (right < 1e-6).any() and (right > 0.5).any()
    assert label_cross_entropy(fixed, moving, u, **given).item() == pytest.approx(-np.log(np.maximum(right, 1e-6)).mean(), rel=1e-6)
    assert label_cross_entropy(fixed, moving, u, floor=0.1, **given).item() == pytest.approx(-np.log(0.1 + 0.9 * right).mean(), rel=1e-5)
    softmax = np.log(np.exp(p).sum(1)) - right
    assert label_cross_entropy(fixed, moving, u, ac_compat=True, **given).item() == pytest.approx(softmax.mean(), rel=1e-6)


@pytest.mark.parametrize("ac_compat", [False, True])
def test_gradients_of_cross_entropy(ac_compat):
    """Of displacements that keep clear of the voxels, where interpolation has a kink."""
    for size in ((3, 4, 3), (5, 4)):
        fixed, moving = label_maps(size)
        u = (0.2 + 0.5 * random(2, len(size), *size)).detach().requires_grad_()
        assert torch.autograd.gradcheck(lambda u: label_cross_entropy(fixed, moving, u, labels=3, ac_compat=ac_compat), (u,))


def test_cross_entropy_by_hand():
    """A structure of 2 pixels, one pixel aside: 2 of 4 pixels are wrong, and after half a shift both are half right."""
    fixed, moving = torch.tensor([[[[1, 1, 0, 0]]]]), torch.tensor([[[[0, 1, 1, 0]]]])
    assert label_cross_entropy(fixed, fixed, STILL, labels=1).item() == 0
    assert label_cross_entropy(fixed, moving, STILL, labels=1).item() == pytest.approx(-math.log(1e-6) / 2, rel=1e-5)
    assert label_cross_entropy(fixed, moving, STILL, labels=(2,)).item() == 0  # all background
    half, whole = STILL.clone(), STILL.clone()
    half[:, 1], whole[:, 1] = 0.5, 1
    assert label_cross_entropy(fixed, moving, half, labels=1).item() == pytest.approx(2 * math.log(2) / 4, rel=1e-5)
    assert label_cross_entropy(fixed, moving, whole, labels=1).item() == 0
    right, wrong = math.log(1 + 1 / math.e), math.log(math.e + 1)
    assert label_cross_entropy(fixed, fixed, STILL, labels=1, ac_compat=True).item() == pytest.approx(right, rel=1e-5)
    assert label_cross_entropy(fixed, moving, STILL, labels=1, ac_compat=True).item() == pytest.approx((right + wrong) / 2, rel=1e-5)


def test_a_moving_map_of_another_size():
    fixed, moving = torch.tensor([[[[1, 1, 0, 0]]]]), torch.tensor([[[[1, 1, 0]], [[1, 1, 0]]]]).reshape(1, 1, 2, 3)
    assert label_cross_entropy(fixed, moving, STILL, labels=1).item() == 0


def test_halves_are_computed_in_float32():
    fixed, moving = label_maps((8, 8))
    u = displacement((8, 8)).detach().bfloat16()
    got = label_cross_entropy(fixed, moving, u, labels=3)
    assert got.dtype == torch.float32
    assert got.item() == label_cross_entropy(fixed, moving, u.float(), labels=3).item()


def test_maps_that_do_not_fit_are_refused():
    labels = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="size must agree, but fixed_labels"):
        label_cross_entropy(labels, labels, STILL, labels=1)
    with pytest.raises(ValueError, match="batch size must agree"):
        label_cross_entropy(labels.expand(2, 1, 4, 4), labels, torch.zeros(1, 2, 4, 4), labels=1)
    with pytest.raises(ValueError, match="padding must be one of"):
        label_cross_entropy(labels, labels, torch.zeros(1, 2, 4, 4), labels=1, padding="mirror")
