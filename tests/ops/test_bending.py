"""bending_energy: the definition, what is free, spacing, MONAI's loss, messages. (The rest: test_every_op.py.)"""

import pytest
import torch

from regkit import ops
from tests.ops.cases import SHAPES, assert_same, randn, value_and_gradients


def plainly(u, spacing):
    """The definition, differentiated by autograd."""
    total = 0.0
    for d, step_d in enumerate(spacing, start=2):
        for e, step_e in enumerate(spacing[d - 2 :], start=d):
            total = total + (1 if d == e else 2) * (u.diff(dim=d).diff(dim=e) / (step_d * step_e)).square().mean()
    return total


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dims", [2, 3])
def test_definition_and_its_gradient(dims, channels):
    u, spacing = randn(2, channels, *SHAPES[dims]), [0.7, 1.0, 3.0][:dims]
    got = value_and_gradients(lambda u: ops.bending_energy(u, spacing=spacing), (u,))
    assert_same("energy", got, value_and_gradients(lambda u: plainly(u, spacing), (u,)), 1e-13)


@pytest.mark.parametrize("spatial", [(5, 9), (4, 5, 37)], ids=str)
def test_affine_fields_are_free_whatever_their_offset(spatial):
    x = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in spatial), indexing="ij"))
    u = torch.tensordot(torch.tensor([0.5, -0.25, 2.0])[: len(spatial)], x, 1)[None, None] + 1024
    value, gradient = value_and_gradients(ops.bending_energy, (u,))
    assert value == 0 and not gradient.any()


def test_quadratic_fields_have_constant_terms():
    i, j = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    assert ops.bending_energy((1.5 * i * i)[None, None]).item() == pytest.approx(9)  # u_ii = 3
    assert ops.bending_energy((2 * i * j)[None, None]).item() == pytest.approx(8)  # u_ij = 2, twice
    assert ops.bending_energy((2 * i * j)[None, None], spacing=(2.0, 0.25)).item() == pytest.approx(32)


@pytest.mark.filterwarnings("ignore:Using a non-tuple")
def test_monais_loss_on_a_smooth_field():
    """Mixed terms differ by a sample's width, and MONAI leaves the border out: on a wave that fades towards the border they agree
    nearly."""
    losses = pytest.importorskip("monai.losses")
    x = torch.linspace(-1, 1, 48, dtype=torch.float64)
    i, j, k = torch.meshgrid(x, x, x, indexing="ij")
    bump = torch.exp(-12 * (i * i + j * j + 0.5 * k * k + i * j))
    u = torch.stack([bump, i * bump, (k - j) * bump])[None]
    assert (46 / 48) ** 3 * losses.BendingEnergyLoss()(u).item() == pytest.approx(ops.bending_energy(u).item(), rel=0.1)


@pytest.mark.parametrize("spatial", [(1, 6, 7), (2, 6, 7)])
def test_a_thin_axis_has_no_second_difference(spatial):
    u = randn(1, 2, 1, 6, 7).expand(1, 2, *spatial)
    assert ops.bending_energy(u).item() == pytest.approx(ops.bending_energy(u[:, :, 0]).item())


def test_nan_is_not_hidden():
    u = randn(1, 2, 9, 9)
    u[0, 1, 4, 4] = float("nan")
    value, gradient = value_and_gradients(ops.bending_energy, (u,))
    assert value.isnan() and int(gradient.isnan().sum()) == 13  # the voxel, two each way along the axes, four diagonal neighbours


def test_gradient_only_where_wanted():
    u = randn(1, 2, 5, 6).requires_grad_()
    with torch.no_grad():
        assert not ops.bending_energy(u).requires_grad
    assert torch.ops.regkit.bending_energy(u, [1.0, 1.0], False)[1].numel() == 0


def test_messages():
    u = torch.zeros(1, 3, 4, 5, 6)
    with pytest.raises(ValueError, match=r"spacing must be one number or one for each spatial axis \(3\)"):
        ops.bending_energy(u, spacing=(1.0, 2.0))
    with pytest.raises(ValueError, match="spacing must be positive"):
        ops.bending_energy(u, spacing=-1.0)
    with pytest.raises(TypeError, match="u must be floating point"):
        ops.bending_energy(u.int())
    with pytest.raises(ValueError, match="u must be"):
        ops.bending_energy(u[0, 0])
