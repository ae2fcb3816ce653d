"""upsample: geometry against torch's interpolate, knots, the adjoint, messages. (The rest: test_every_op.py.)"""

import pytest
import torch
import torch.nn.functional as F

from regkit import ops
from tests.ops.cases import assert_like_reference, assert_same, randn, value_and_gradients
from tests.ops.compare import assert_close

COARSE = {2: (5, 9), 3: (4, 5, 9)}
MODE = {2: "bilinear", 3: "trilinear"}


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("dims", [2, 3])
def test_edges_aligned_is_torchs_interpolate(dims, factor):
    u, size = randn(2, 3, *COARSE[dims]), [factor * n for n in COARSE[dims]]
    got = value_and_gradients(lambda u: ops.upsample(u, size, factor, (factor - 1) / 2), (u,))
    want = value_and_gradients(lambda u: F.interpolate(u, size=size, mode=MODE[dims], align_corners=False), (u,))
    assert_same("upsample", got, want, 1e-12)


@pytest.mark.parametrize("size", [(13, 15, 10), (3, 2, 30)], ids=str)
@pytest.mark.parametrize("dims", [2, 3])
def test_corners_aligned_is_torchs_interpolate_also_downwards(dims, size):
    u, size = randn(2, 3, *COARSE[dims]), size[-dims:]
    factor = [(n - 1) / (c - 1) for n, c in zip(size, COARSE[dims])]
    got = value_and_gradients(lambda u: ops.upsample(u, size, factor), (u,))
    want = value_and_gradients(lambda u: F.interpolate(u, size=size, mode=MODE[dims], align_corners=True), (u,))
    assert_same("upsample", got, want, 1e-10)


@pytest.mark.parametrize("dims", [2, 3])
def test_knots_keep_their_values(dims):
    u = randn(1, 2, *COARSE[dims], dtype=torch.float32)
    fine = ops.upsample(u, [4 * n + 3 for n in COARSE[dims]], 4, 2)
    assert torch.equal(fine[(..., *[slice(2, 4 * n, 4) for n in COARSE[dims]])], u)
    assert torch.equal(fine[(..., *[0] * dims)], u[(..., *[0] * dims)])  # before the first knot: its value
    assert torch.equal(fine[(..., *[-1] * dims)], u[(..., *[-1] * dims)])


def test_a_ramp_stays_a_ramp_and_scale_multiplies():
    u = torch.arange(5.0).reshape(1, 1, 1, 5).expand(1, 2, 3, 5)
    fine = ops.upsample(u, (3, 9), (1.0, 2.0), scale=(2.0, 10.0))
    want = torch.arange(9.0) / 2
    assert_close("channel 0", fine[0, 0], 2 * want.expand(3, 9), 1e-6)
    assert_close("channel 1", fine[0, 1], 10 * want.expand(3, 9), 1e-6)


@pytest.mark.parametrize(
    "size, factor, offset",
    [((23, 50, 41), (5.3, 9.1, 4.0), (1.0, -3.0, 0.5)), ((70, 120, 9), (16.0, 25.0, 1.0), 0.0), ((2, 3, 4), 0.4, 0.2)],
)
def test_backward_is_the_adjoint_over_many_tiles(size, factor, offset):
    u = randn(1, 3, *COARSE[3])
    assert_like_reference("upsample", lambda u: ops.upsample(u, size, factor, offset, scale=(1.0, 2.0, -1.0)), (u,), 1e-12)
    fine = ops.upsample(u.requires_grad_(), size, factor, offset)
    g = randn(*fine.shape, seed=1)
    fine.backward(g)
    assert (u.grad * u).sum().item() == pytest.approx((g * fine).sum().item())


def test_no_fine_voxels():
    u = randn(1, 2, 4, 5).requires_grad_()
    fine = ops.upsample(u, (0, 7), 2)
    assert fine.shape == (1, 2, 0, 7)
    fine.sum().backward()
    assert u.grad.eq(0).all()


def test_messages():
    u = torch.zeros(1, 2, 4, 5)
    with pytest.raises(ValueError, match="size must be 2 voxel counts"):
        ops.upsample(u, (8, 8, 8), 2)
    with pytest.raises(ValueError, match="factor must be positive"):
        ops.upsample(u, (8, 8), (2, -1))
    with pytest.raises(ValueError, match=r"offset must be one number or one for each spatial axis \(2\)"):
        ops.upsample(u, (8, 8), 2, (1, 1, 1))
    with pytest.raises(ValueError, match=r"scale must be one number or one for each channel \(2\)"):
        ops.upsample(u, (8, 8), 2, scale=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="at least one voxel"):
        ops.upsample(u[:, :, :0], (8, 8), 2)
    with pytest.raises(TypeError, match="u must be floating point"):
        ops.upsample(u.int(), (8, 8), 2)
