import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from regkit.data import smooth_random_displacement
from regkit.errors import InputError
from regkit.metrics import jacobian_summary


def learn2reg(u, mask=None):
    """SDlogJ of Learn2Reg's evaluation, by its own steps."""
    kernels = [np.array([-0.5, 0, 0.5]).reshape([1] + [3 if a == d else 1 for a in range(3)]) for d in range(3)]
    gradient = np.stack([correlate(u, kernel, mode="constant") for kernel in kernels], 1)
    jacobian = gradient + np.eye(3).reshape(3, 3, 1, 1, 1)
    determinant = np.linalg.det(jacobian[:, :, 2:-2, 2:-2, 2:-2].transpose(2, 3, 4, 0, 1))
    logarithm = np.log((determinant + 3).clip(1e-9, 1e9))
    return logarithm.std() if mask is None else np.ma.MaskedArray(logarithm, 1 - mask[2:-2, 2:-2, 2:-2]).std()


def test_learn2reg_variant_is_learn2regs():
    u = smooth_random_displacement((20, 18, 16), 6.0, 2.5, seed=1)
    assert jacobian_summary(u)["folds"] > 0
    assert jacobian_summary(u)["sdlogj_learn2reg"] == pytest.approx(learn2reg(u[0].numpy()), rel=1e-4)
    mask = (np.random.default_rng(0).random((20, 18, 16)) > 0.5).astype(int)
    assert jacobian_summary(u, mask)["sdlogj_learn2reg"] == pytest.approx(learn2reg(u[0].numpy(), mask), rel=1e-4)


def scaling(shape, factors):
    axes = [torch.arange(size, dtype=torch.float32) * (factor - 1) for size, factor in zip(shape, factors)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


@pytest.mark.parametrize("factors", [(1.5, 0.8), (1.5, 0.8, 1.1)])
def test_a_scaling_has_one_determinant(factors):
    found = jacobian_summary(scaling((9, 8, 7)[: len(factors)], factors))
    volume = float(np.prod(factors))
    assert found["det_min"] == pytest.approx(volume, rel=1e-5) and found["det_max"] == pytest.approx(volume, rel=1e-5)
    assert found["folds"] == 0 and found["sdlogj"] == pytest.approx(0, abs=1e-5)


def test_folds_are_counted_and_kept_out_of_sdlogj():
    u = torch.zeros(1, 2, 40, 6)
    u[0, 0, 20:] = scaling((20, 6), (-1.0, 1.0))[0, 0]  # mirrored half: determinant -1
    found = jacobian_summary(u)
    assert found["folds"] == pytest.approx(0.5, abs=0.03) and found["det_min"] == pytest.approx(-1)
    assert found["sdlogj"] == pytest.approx(0, abs=1e-6)
    lower = torch.zeros(40, 6)
    lower[:18] = 1
    assert jacobian_summary(u, lower)["folds"] == 0
    assert np.isnan(jacobian_summary(u, torch.zeros(40, 6))["sdlogj"])


def test_mask_must_fit():
    with pytest.raises(InputError, match="on the displacement's grid"):
        jacobian_summary(torch.zeros(1, 2, 8, 8), np.ones((8, 9)))
