"""LDGNet is what the paper says: as many numbers, VoxelMorph without its two parts, and each of these as a formula."""

import pytest
import torch

from regkit import ops
from regkit.models import LDGNet, VoxelMorph
from regkit.models.ldgnet import Enhancement, Guidance
from tests.models.pairs import pair


@pytest.mark.parametrize(
    ("guidance", "enhancement", "count"), [(False, False, 301_411), (True, False, 306_364), (False, True, 387_555), (True, True, 392_508)]
)
def test_parameters(guidance, enhancement, count):
    """The paper's models A (VoxelMorph), B, C and D: about 0.30, 0.31, 0.39 and 0.39 million."""
    assert sum(p.numel() for p in LDGNet(guidance, enhancement).parameters()) == count


def test_without_its_parts_it_is_voxelmorph():
    torch.manual_seed(0)
    plain = LDGNet(guidance=False, enhancement=False, dims=2)
    torch.manual_seed(0)
    voxelmorph = VoxelMorph(dims=2)
    images = pair((32, 48))
    assert torch.equal(plain(*images), voxelmorph(*images))


@pytest.mark.parametrize("size", [(32, 48), (16, 32, 16)])
def test_every_parameter_learns(size):
    torch.manual_seed(0)
    network, (fixed, moving) = LDGNet(dims=len(size), dilations=(1, 2, 3)), pair(size, batch=2)
    torch.nn.init.normal_(network.flow.weight, 0, 0.1)
    u = network(fixed, moving)
    assert u.shape == (2, len(size), *size)
    (ops.warp(moving, u) - fixed).square().mean().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    # Of kernels wider than the coarsest grid, and of channels that a leaky ReLU lets pass, all learn; a dilation beyond the grid would not.
    assert not still


def test_gates_as_formulas():
    torch.manual_seed(0)
    guide, encoded, decoded = Guidance(3, 5, 2), torch.randn(2, 3, 4, 6), torch.randn(2, 5, 2, 3)
    doubled = decoded.repeat_interleave(2, 2).repeat_interleave(2, 3)
    both = torch.einsum("oc,bcjk->bojk", guide.channels.weight[..., 0, 0], torch.cat([doubled, encoded], 1))
    both = both + guide.channels.bias[:, None, None]
    gated = encoded * torch.sigmoid(both.mean((2, 3)) + both.flatten(2).amax(2))[..., None, None]
    weight, bias = guide.voxels.weight.flatten(), guide.voxels.bias
    by_voxel = torch.sigmoid(weight[0] * gated.mean(1) + weight[1] * gated.amax(1) + bias)
    torch.testing.assert_close(guide(encoded, decoded), gated * by_voxel[:, None])


def test_a_dilation_beyond_the_grid_sees_its_middle_alone():
    torch.manual_seed(0)
    enhance, x = Enhancement(4, (18,), 2), torch.randn(1, 4, 10, 12)
    want = torch.einsum("oc,bcjk->bojk", enhance.branches[0].weight[:, :, 1, 1], x) + enhance.branches[0].bias[:, None, None]
    torch.testing.assert_close(enhance.branches[0](x), want)
    assert not torch.allclose(Enhancement(4, (3,), 2).branches[0](x), want)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="dilations must be at least 1"):
        LDGNet(dilations=())
    with pytest.raises(ValueError, match="multiples of 16"):
        LDGNet(dims=2)(*pair((24, 32)))
    with pytest.raises(NotImplementedError, match="no published weights"):
        LDGNet.from_original({})


@pytest.mark.parametrize("dims", [2, 3])
def test_it_begins_near_voxelmorph(dims):
    """Gates begin nearly open, and the coarsest features pass nearly as they are."""
    torch.manual_seed(0)
    encoded, decoded = torch.rand(2, 16, *(8,) * dims), torch.rand(2, 32, *(4,) * dims)
    assert Guidance(16, 32, dims)(encoded, decoded).mean() > 0.6 * encoded.mean()
    x = torch.nn.functional.leaky_relu(torch.randn(2, 32, *(6,) * dims), 0.2)
    out = Enhancement(32, (1, 2, 3), dims)(x)
    alike = torch.corrcoef(torch.stack([x.flatten(), out.flatten()]))[0, 1]
    assert alike > 0.7 and 0.7 < out.std() / x.std() < 1.4
