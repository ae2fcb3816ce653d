"""jacobian_determinant: numpy's differences, known maps, folds, messages. (The rest: test_every_op.py.)"""

import numpy as np
import pytest
import torch

from regkit import ops
from tests.ops.cases import SHAPES, displacement, randn
from tests.ops.compare import assert_close


@pytest.mark.parametrize("dims", [2, 3])
def test_is_the_determinant_of_numpys_gradient(dims):
    u = displacement(SHAPES[dims])
    gradient = np.stack([np.stack([np.stack(np.gradient(c.numpy()), -1) for c in v], -2) for v in u])
    want = torch.from_numpy(np.linalg.det(gradient + np.eye(dims)))[:, None]
    assert_close("determinant", ops.jacobian_determinant(u), want, 1e-12)


@pytest.mark.parametrize("dims", [2, 3])
def test_an_affine_map_has_its_matrix_determinant_everywhere(dims):
    matrix = torch.eye(dims, dtype=torch.float64) + 0.2 * randn(dims, dims)
    x = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in SHAPES[dims]), indexing="ij"))
    u = torch.tensordot(matrix - torch.eye(dims), x, 1)[None]
    got = ops.jacobian_determinant(u)
    assert_close("determinant", got, torch.linalg.det(matrix).expand(got.shape), 1e-12)


def test_a_fold_is_negative_and_a_shift_is_one():
    u = torch.zeros(1, 2, 5, 6)
    assert torch.equal(ops.jacobian_determinant(u + 3.5), torch.ones(1, 1, 5, 6))
    u[:, 1] = -2 * torch.arange(6.0)  # mirrors the axis
    assert torch.equal(ops.jacobian_determinant(u), -torch.ones(1, 1, 5, 6))


def test_an_axis_of_one_voxel_does_not_stretch():
    flat = displacement((1, 7, 8))
    assert_close("determinant", ops.jacobian_determinant(flat)[:, :, 0], ops.jacobian_determinant(flat[:, 1:, 0]), 1e-13)


def test_messages():
    with pytest.raises(ValueError, match=r"u must be \(B, D, \*spatial\) .* came as \(1, 3, 4, 5\)"):
        ops.jacobian_determinant(torch.zeros(1, 3, 4, 5))
    with pytest.raises(TypeError, match="u must be floating point"):
        ops.jacobian_determinant(torch.zeros(1, 2, 4, 5, dtype=torch.int64))
