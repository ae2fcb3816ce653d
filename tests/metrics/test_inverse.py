import numpy as np
import pytest
import torch

from regkit.metrics import inverse_consistency


def constant(shape, vector):
    return torch.tensor(vector, dtype=torch.float32).view(1, -1, *[1] * len(shape)).expand(1, -1, *shape).clone()


def test_a_shift_and_its_inverse():
    there, back = constant((12, 10, 8), (3, 0, -1)), constant((12, 10, 8), (-3, 0, 1))
    found = inverse_consistency(there, back)
    assert found["mean"] == found["max"] == found["p95"] == 0
    assert found["outside"] == pytest.approx(1 - (9 / 12) * (7 / 8))


def test_error_is_in_mm_of_the_fixed_grid():
    there, back = constant((12, 10), (2, 0)), constant((12, 10), (-1.5, 1))
    found = inverse_consistency(there, back, spacing=(3.0, 0.5))
    assert found["mean"] == pytest.approx(np.hypot(1.5, 0.5)) and found["max"] == pytest.approx(np.hypot(1.5, 0.5))


def test_grids_of_two_shapes():
    there = constant((10, 10), (0.0, 0.0))
    there[0, 0] = torch.arange(10.0)[:, None]  # the moving grid is twice as fine along the first axis
    back = constant((19, 10), (0.0, 0.0))
    back[0, 0] = -torch.arange(19.0)[:, None] / 2
    assert inverse_consistency(there, back) == pytest.approx({"mean": 0, "p95": 0, "max": 0, "outside": 0}, abs=1e-6)


def test_mask_chooses_voxels():
    there, back = constant((8, 8), (0, 0)), constant((8, 8), (0, 0))
    back[0, 0, 4:] = 2
    mask = torch.zeros(8, 8)
    mask[:4] = 1
    assert inverse_consistency(there, back, mask=mask)["max"] == 0
    assert inverse_consistency(there, back, mask=1 - mask)["mean"] == 2
    assert np.isnan(inverse_consistency(there, back, mask=mask * 0)["mean"])
