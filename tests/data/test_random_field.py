import numpy as np
import pytest
import torch

from regkit.data import smooth_random_displacement
from regkit.data.random_field import smooth_random_field


@pytest.mark.parametrize("shape", [(40, 30), (20, 24, 28)])
def test_shape_amplitude_and_seed(shape):
    u = smooth_random_displacement(shape, 3.0, 5.0, seed=1)
    assert u.shape == (1, len(shape), *shape) and u.dtype == torch.float32
    assert u.norm(dim=1).max() == pytest.approx(3.0, rel=1e-5)
    assert torch.equal(u, smooth_random_displacement(shape, 3.0, 5.0, seed=1))
    assert not torch.equal(u, smooth_random_displacement(shape, 3.0, 5.0, seed=2))


def test_field_is_filtered_white_noise():
    sigma = 4.0
    field = smooth_random_field((4000, 8), (sigma, 0.7), np.random.default_rng(0), channels=2).double()
    assert field.std() == pytest.approx(1, abs=0.05) and abs(field.mean()) < 0.1
    lag = 5
    correlation = (field[:, lag:] * field[:, :-lag]).mean()
    assert correlation == pytest.approx(np.exp(-(lag**2) / (4 * sigma**2)), abs=0.06)
    assert abs((field[0] * field[1]).mean()) < 0.1
