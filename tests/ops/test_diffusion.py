"""diffusion_energy: the definition, spacing, VoxelMorph's loss, messages. (The rest: test_every_op.py.)"""

import pytest
import torch

from regkit import ops
from tests.ops.cases import SHAPES, assert_same, randn, value_and_gradients


def plainly(u, spacing):
    """The definition, differentiated by autograd."""
    return sum((u.diff(dim=d) / s).square().mean() for d, s in enumerate(spacing, start=2)) / len(spacing)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dims", [2, 3])
def test_definition_and_its_gradient(dims, channels):
    u, spacing = randn(2, channels, *SHAPES[dims]), [0.7, 1.0, 3.0][:dims]
    got = value_and_gradients(lambda u: ops.diffusion_energy(u, spacing=spacing), (u,))
    assert_same("energy", got, value_and_gradients(lambda u: plainly(u, spacing), (u,)), 1e-13)


@pytest.mark.parametrize("dims", [2, 3])
def test_default_spacing_is_voxelmorphs_loss(dims):
    u = randn(2, dims, *SHAPES[dims])
    assert ops.diffusion_energy(u).item() == pytest.approx(plainly(u, [1.0] * dims).item())
    assert ops.diffusion_energy(u, spacing=2.0).item() == pytest.approx(plainly(u, [1.0] * dims).item() / 4)


def test_a_ramp():
    u = torch.zeros(1, 3, 5, 6, 7)
    u[:, 0] = 2 * torch.arange(7.0)  # one of 3 components rises by 2 voxels a step of 0.5 along one of 3 axes
    assert ops.diffusion_energy(u, spacing=(1.0, 1.0, 0.5)).item() == pytest.approx(16 / 9)
    assert ops.diffusion_energy(torch.full((1, 2, 4, 4), 3.0)).item() == 0


def test_an_axis_of_one_voxel_counts_as_zero():
    u = randn(1, 3, 1, 6, 7)
    assert ops.diffusion_energy(u).item() == pytest.approx(2 / 3 * ops.diffusion_energy(u[:, :, 0]).item())


def test_gradient_only_where_wanted():
    u = randn(1, 2, 5, 6).requires_grad_()
    with torch.no_grad():
        assert not ops.diffusion_energy(u).requires_grad
    assert torch.ops.regkit.diffusion_energy(u, [1.0, 1.0], False)[1].numel() == 0


def test_nan_is_not_hidden():
    u = randn(1, 2, 5, 6)
    u[0, 1, 2, 3] = float("nan")
    value, gradient = value_and_gradients(ops.diffusion_energy, (u,))
    assert value.isnan() and int(gradient.isnan().sum()) == 5  # the voxel and its four neighbours


def test_messages():
    u = torch.zeros(1, 3, 4, 5, 6)
    with pytest.raises(ValueError, match=r"spacing must be one number or one for each spatial axis \(3\)"):
        ops.diffusion_energy(u, spacing=(1.0, 2.0))
    with pytest.raises(ValueError, match="spacing must be positive"):
        ops.diffusion_energy(u, spacing=(1.0, 0.0, 1.0))
    with pytest.raises(TypeError, match="u must be floating point"):
        ops.diffusion_energy(u.int())
    with pytest.raises(ValueError, match="u must be"):
        ops.diffusion_energy(u[0, 0])
