"""Global NCC and SSIM against their formulas in numpy's and scipy's float64, and what they say of images known by hand."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from regkit.data.random_field import smooth_random_field
from regkit.losses import global_ncc_loss, ssim_loss
from tests.ops.compare import assert_close

SIZES = [(14, 9, 12), (17, 20)]
LOSSES = [global_ncc_loss, ssim_loss]


def images(size: tuple[int, ...], channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images (2, channels, *size) in 0..1, somewhat alike."""
    field = smooth_random_field(size, 1.5, np.random.default_rng(1), channels=4 * channels).reshape(2, 2, channels, *size)
    low, high = field.min(), field.max()
    first, second = (field - low) / (high - low)
    return first, 0.5 * first + 0.5 * second


def ssim_in_numpy(a: np.ndarray, b: np.ndarray, window: int, sigma: float, reach: float) -> np.ndarray:
    """The map of SSIM of one image."""
    at = np.arange(window) - window // 2
    weights = np.exp(-(at**2) / (2 * sigma**2))
    weights /= weights.sum()

    def blurred(x: np.ndarray) -> np.ndarray:
        for axis in range(x.ndim):
            x = correlate1d(x, weights, axis, mode="constant")
        return x

    ma, mb = blurred(a), blurred(b)
    va, vb, covariance = blurred(a * a) - ma * ma, blurred(b * b) - mb * mb, blurred(a * b) - ma * mb
    c1, c2 = (0.01 * reach) ** 2, (0.03 * reach) ** 2
    return (2 * ma * mb + c1) * (2 * covariance + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))


@pytest.mark.parametrize("size", SIZES)
def test_global_ncc_is_the_correlation_of_each_image_and_channel(size):
    fixed, warped = images(size)
    rows = zip(*(x.double().numpy().reshape(4, -1) for x in (fixed, warped)))
    wanted = -np.mean([np.corrcoef(f, w)[0, 1] for f, w in rows])
    assert -0.95 < wanted < -0.5
    assert global_ncc_loss(fixed, warped, eps=0).item() == pytest.approx(wanted, rel=1e-5)
    assert global_ncc_loss(fixed, warped).item() == pytest.approx(wanted, rel=2e-3)  # 1e-5 of variances of a hundredth


def test_global_ncc_by_hand():
    fixed = torch.rand((2, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    assert global_ncc_loss(fixed, 3 * fixed + 1).item() == pytest.approx(-1, abs=1e-3)
    assert global_ncc_loss(fixed, -fixed).item() == pytest.approx(1, abs=1e-3)
    assert global_ncc_loss(fixed, torch.cat([fixed[:1], -fixed[1:]])).item() == pytest.approx(0, abs=1e-3)


def test_global_ncc_of_a_flat_image_is_0_with_a_finite_gradient():
    fixed, _ = images((16, 16))
    flat = torch.zeros_like(fixed, requires_grad=True)
    loss = global_ncc_loss(fixed, flat)
    loss.backward()
    assert loss.item() == 0 and flat.grad.isfinite().all() and flat.grad.any()


@pytest.mark.parametrize("options", [{}, {"window": 7, "sigma": 2.5, "reach": 0.5}, {"window": 1}])
@pytest.mark.parametrize("size", SIZES)
def test_ssim(size, options):
    fixed, warped = images(size)
    pairs = zip(*(x.double().numpy().reshape(4, *size) for x in (fixed, warped)))
    wanted = -np.mean([ssim_in_numpy(f, w, **{"window": 11, "sigma": 1.5, "reach": 1.0} | options) for f, w in pairs])
    assert ssim_loss(fixed, warped, **options).item() == pytest.approx(wanted, rel=1e-4)


def test_ssim_of_an_image_with_itself():
    fixed, _ = images((16, 16))
    assert ssim_loss(fixed, fixed).item() == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize("size", [(4, 3, 5), (6, 5)])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(loss, size):
    generator = torch.Generator().manual_seed(0)
    fixed, warped = (torch.rand((2, 1, *size), generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(loss, (fixed, warped))


@pytest.mark.parametrize("loss", LOSSES)
def test_halves_are_computed_in_float32(loss):
    fixed, warped = (x.bfloat16() for x in images((32, 32)))
    wanted = loss(fixed.float(), warped.float())
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(fixed, warped)
    for got in (loss(fixed, warped), inside):
        assert got.dtype == torch.float32 and got.shape == ()
        assert_close("halves", got, wanted, 1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_strange_images_are_refused(loss):
    x = torch.rand(1, 1, 8, 8)
    with pytest.raises(ValueError, match="shape must agree, but fixed has .* warped has"):
        loss(x, x.expand(2, 1, 8, 8))
    with pytest.raises(ValueError, match="2 or 3 spatial axes"):
        loss(x[0], x[0])
    with pytest.raises(TypeError, match="warped must be floating point"):
        loss(x, x.to(torch.uint8))


@pytest.mark.parametrize(
    ("options", "message"), [({"window": 10}, "odd number"), ({"sigma": 0}, "sigma and reach"), ({"reach": -1.0}, "above 0")]
)
def test_strange_options_of_ssim_are_refused(options, message):
    x = torch.rand(1, 1, 8, 8)
    with pytest.raises(ValueError, match=message):
        ssim_loss(x, x, **options)
