"""Every loss against the formula in torch's own functions, its gradient too; and values known by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from regkit.data.random_field import smooth_random_displacement, smooth_random_field
from regkit.losses import dice_loss, fold_loss, lncc_loss, similarity_pyramid, smoothness_loss
from tests.ops.compare import assert_close

SIZES = [(14, 16, 12), (17, 20)]


def images(size: tuple[int, ...], batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    field = smooth_random_field(size, 1.5, np.random.default_rng(1), channels=2 * batch).reshape(2, batch, 1, *size)
    return tuple((field - field.min()) / (field.max() - field.min()))


def displacement(size: tuple[int, ...], amplitude: float = 2.0) -> torch.Tensor:
    return torch.cat([smooth_random_displacement(size, amplitude, 3.0, seed) for seed in (0, 1)]).requires_grad_()


def assert_same(got: torch.Tensor, want: torch.Tensor, by: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Values and gradients by `by`."""
    assert got.shape == ()
    assert_close("value", got, want, tolerance)
    ours, theirs = (torch.autograd.grad(x, by)[0] for x in (got, want))
    assert theirs.any()
    assert_close("gradient", ours, theirs, tolerance)


def conv_ncc(a: torch.Tensor, b: torch.Tensor, window: int, eps: float = 1e-5) -> torch.Tensor:
    """Mean squared local NCC by convolution with a box of ones, in float64."""
    convolve = F.conv3d if a.dim() == 5 else F.conv2d
    a, b = a.double(), b.double()
    box = torch.ones(1, 1, *[window] * (a.dim() - 2), dtype=a.dtype)
    n = box.numel()
    sa, sb, saa, sbb, sab = (convolve(x, box, padding=window // 2) for x in (a, b, a * a, b * b, a * b))
    cross = sab - sa * sb / n
    return (cross**2 / ((saa - sa**2 / n + eps) * (sbb - sb**2 / n + eps))).mean()


def grid_sampled(image: torch.Tensor, u: torch.Tensor, padding: str = "zeros") -> torch.Tensor:
    size = u.shape[2:]
    identity = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in size], indexing="ij"))
    scale = torch.tensor([2 / (n - 1) for n in size]).reshape(-1, *[1] * len(size))
    return F.grid_sample(image, ((identity + u) * scale - 1).movedim(1, -1).flip(-1), padding_mode=padding, align_corners=True)


@pytest.mark.parametrize("window", [3, 5, 9])
@pytest.mark.parametrize("size", SIZES)
def test_lncc(size, window):
    fixed, warped = images(size)
    warped = warped.clone().requires_grad_()
    assert_same(lncc_loss(fixed, warped, window=window), -conv_ncc(fixed, warped, window), warped)


def test_lncc_of_an_image_and_its_multiple_is_minus_one():
    fixed, _ = images((16, 16, 16))
    assert lncc_loss(fixed, -2 * fixed, eps=1e-9).item() == pytest.approx(-1, abs=1e-3)


def test_lncc_of_noise_with_other_noise_is_nearly_zero():
    """Of n independent samples the squared correlation is 1 / (n - 1) on average; windows at the border hold fewer."""
    a, b = torch.randn((2, 1, 1, 24, 24, 24), generator=torch.Generator().manual_seed(0))
    assert -0.006 < lncc_loss(a, b).item() < -1 / 728


@pytest.mark.parametrize("windows", [(3,), (5, 3), (7, 5, 3)])
@pytest.mark.parametrize("size", SIZES)
def test_similarity_pyramid(size, windows):
    fixed, warped = images(size)
    warped = warped.clone().requires_grad_()
    pool = F.avg_pool3d if len(size) == 3 else F.avg_pool2d
    a, b, want = fixed, warped, 0
    for i, window in enumerate(windows):
        want = want - conv_ncc(a, b, window) / 2**i
        # the mean of what lies inside: sums over 3^D, zeros outside, by how many there are
        a, b = (pool(x, 3, 2, 1) / pool(torch.ones_like(x), 3, 2, 1) for x in (a, b))
    assert_same(similarity_pyramid(fixed, warped, windows=windows), want, warped)


def test_similarity_pyramid_of_an_image_with_itself():
    """1 + 1/2 + 1/4, but for eps where the image is nearly flat."""
    fixed = torch.rand((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
    assert similarity_pyramid(fixed, fixed).item() == pytest.approx(-1.75, abs=1e-3)


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("size", SIZES)
def test_dice(size, padding):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 4, (2, 2, 1, *(math.ceil(n / 4) for n in size)), generator=generator)
    fixed, moving = (F.interpolate(x.float(), size=size, mode="nearest").to(torch.uint8) for x in coarse)
    u, labels = displacement(size), (1, 3)
    one_hot = lambda x: torch.cat([x == label for label in labels], 1).float()  # noqa: E731
    f, m = one_hot(fixed), grid_sampled(one_hot(moving), u, padding)
    axes = tuple(range(2, u.dim()))
    want = 1 - ((2 * (f * m).sum(axes) + 1e-5) / (f.sum(axes) + m.sum(axes) + 1e-5)).mean()
    assert_same(dice_loss(fixed, moving, u, labels=labels, padding=padding), want, u)


def test_dice_by_hand():
    """Label 1 is 2 of 4 pixels in both maps and half of it overlaps; label 2 is nowhere, which counts as 1."""
    fixed, moving = torch.tensor([[[[1, 1, 0, 0]]]]), torch.tensor([[[[0, 1, 1, 0]]]])
    still = torch.zeros(1, 2, 1, 4)
    assert dice_loss(fixed, moving, still, labels=1).item() == pytest.approx(0.5, abs=1e-5)
    assert dice_loss(fixed, moving, still, labels=2).item() == pytest.approx(0.25, abs=1e-5)
    shift = still.clone()
    shift[:, 1] = 1
    assert dice_loss(fixed, moving, shift, labels=1).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_smoothness(size):
    for options, factor in (({}, 3), ({"level": 2}, 3 / 4), ({"level": 2, "by_level": False}, 3)):
        u = displacement(size)
        want = factor * sum((torch.diff(u, dim=axis) ** 2).mean() for axis in range(2, u.dim())) / len(size)
        assert_same(smoothness_loss(u, weight=3.0, **options), want, u)


def test_smoothness_by_hand():
    """A stretch by a tenth along one of three axes: one of nine differences is 0.1."""
    u = torch.zeros(1, 3, 5, 4, 6)
    u[:, 0] = 0.1 * torch.arange(5.0)[:, None, None]
    assert smoothness_loss(u).item() == pytest.approx(0.01 / 9, rel=1e-5)
    assert smoothness_loss(torch.ones(1, 3, 5, 4, 6)).item() == 0


@pytest.mark.parametrize("size", SIZES)
def test_folds(size):
    u = displacement(size, amplitude=9.0)
    dims = len(size)
    rows = [torch.stack(torch.gradient(u[:, d], dim=tuple(range(1, dims + 1)))) for d in range(dims)]  # one-sided at the border
    jacobian = torch.stack(rows) + torch.eye(dims).reshape(dims, dims, 1, *[1] * dims)
    determinant = torch.linalg.det(jacobian.movedim((0, 1), (-2, -1)))
    assert 0 < (determinant < 0).float().mean() < 0.5
    assert_same(fold_loss(u), (-determinant).clamp_min(0).mean(), u, 1e-3)


def test_folds_by_hand():
    """x -> -x along one axis has determinant -1 everywhere, and shrinking to a point 0."""
    place = torch.arange(6.0)[:, None].expand(6, 5)
    u = torch.zeros(1, 2, 6, 5)
    u[:, 0] = -2 * place
    assert fold_loss(u).item() == pytest.approx(1, rel=1e-5)
    u[:, 0] = -place
    assert fold_loss(u).item() == pytest.approx(0, abs=1e-6)
    assert fold_loss(torch.zeros(1, 2, 6, 5)).item() == 0


@pytest.mark.parametrize("loss", [lncc_loss, similarity_pyramid])
def test_similarity_of_bfloat16_is_float32(loss):
    fixed, warped = images((16, 16, 16))
    got = loss(fixed.bfloat16(), warped.bfloat16())
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(loss(fixed, warped).item(), abs=0.02)
