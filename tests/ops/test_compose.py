"""compose: order, border, sizes, messages. (The rest: test_every_op.py.)"""

import pytest
import torch

from regkit import ops
from tests.ops.cases import SHAPES, assert_like_reference, displacement, randn
from tests.ops.compare import assert_close


@pytest.mark.parametrize("dims", [2, 3])
def test_is_a_warp_of_u_plus_v(dims):
    u, v = displacement(SHAPES[dims], seed=1), displacement(SHAPES[dims], seed=2)
    assert_close("u o v", ops.compose(u, v), v + ops.warp(u, v, padding="border"), 1e-14)


@pytest.mark.parametrize("dims", [2, 3])
def test_nothing_before_or_after(dims):
    u = displacement(SHAPES[dims])
    assert torch.equal(ops.compose(u, torch.zeros_like(u)), u)
    assert torch.equal(ops.compose(torch.zeros_like(u), u), u)


def test_v_comes_first():
    """Two shifts of whole voxels, one of a ramp: u is read where v leads."""
    u, v = torch.zeros(1, 2, 4, 5, dtype=torch.float64), torch.zeros(1, 2, 4, 5, dtype=torch.float64)
    u[:, 0] = torch.arange(5.0)
    v[:, 1] = 2
    got = ops.compose(u, v)
    assert got[0, 0, 0].tolist() == [2, 3, 4, 4, 4]  # beyond the edge: the edge's value
    assert torch.equal(got[:, 1], v[:, 1])


def test_warps_compose():
    image = torch.arange(12.0, dtype=torch.float64).reshape(1, 1, 12, 1) * torch.ones(1, 1, 12, 9, dtype=torch.float64)
    u, v = (0.3 * displacement((12, 9), 1, seed) for seed in (1, 2))
    inside = (slice(None), slice(None), slice(3, -3))
    # A linear image is interpolated without error, so both ways agree.
    once = ops.warp(image, ops.compose(u, v), padding="border")[inside]
    assert_close("moved", ops.warp(ops.warp(image, u, padding="border"), v, padding="border")[inside], once, 1e-12)


@pytest.mark.parametrize("dims", [2, 3])
def test_u_of_another_size_and_dtype(dims):
    u, v = displacement(tuple(n + 3 for n in SHAPES[dims]), dtype=torch.float32), displacement(SHAPES[dims], seed=1, dtype=torch.float16)
    assert ops.compose(u, v).dtype == torch.float32
    assert_like_reference("compose", ops.compose, (u, v), 1e-3)


def test_messages():
    u = randn(1, 2, 4, 5)
    with pytest.raises(ValueError, match=r"v must be \(B, D, \*spatial\)"):
        ops.compose(u, randn(1, 3, 4, 5))
    with pytest.raises(ValueError, match="u must have 3 spatial axes"):
        ops.compose(u, randn(1, 3, 4, 5, 6))
    with pytest.raises(ValueError, match="batch size must agree, but u has 1, v has 2"):
        ops.compose(u, randn(2, 2, 4, 5))
    with pytest.raises(TypeError, match="u must be floating point"):
        ops.compose(u.int(), u)
    with pytest.raises(ValueError, match="at least one voxel"):
        ops.compose(u[:, :, :0], u)
