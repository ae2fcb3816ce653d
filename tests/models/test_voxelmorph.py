"""VoxelMorph is the published network: sizes, the authors' weights and their output, both of their U-Nets."""

import pytest
import torch
import torch.nn.functional as F

from regkit import ops
from regkit.models import VoxelMorph
from tests.models import published
from tests.models.pairs import pair
from tests.ops.compare import assert_close

CHANNELS = {"vxm-1": ((8, 32, 32, 32), (32, 32, 32, 32, 32, 8, 8)), "vxm-2": ((16, 32, 32, 32), (32, 32, 32, 32, 32, 16, 16))}


def checkpoint(variant: str, dims: int, pooled: bool, size: float = 6.0) -> dict[str, torch.Tensor]:
    """Random weights under the names in the authors' torch checkpoints; fields of several voxels."""
    generator, made = torch.Generator().manual_seed(0), {}

    def convolution(name: str, inputs: int, outputs: int, gain: float = 1.0) -> int:
        shape = (outputs, inputs, *[3] * dims)
        made[name + ".weight"] = torch.randn(shape, generator=generator) * gain * (2 / (inputs * 3**dims)) ** 0.5
        made[name + ".bias"] = torch.randn(outputs, generator=generator) * 0.1
        return outputs

    encoder, decoder = CHANNELS[variant]
    names = ("encoder.{}.0", "decoder.{}.0", "remaining.{}") if pooled else ("downarm.{}", "uparm.{}", "extras.{}")
    down, up, full = (f"unet_model.{name}.main" for name in names)
    channels, beside = 2, [] if pooled else [2]
    for n, outputs in enumerate(encoder):
        channels = convolution(down.format(n), channels, outputs)
        beside.append(channels)
    if not pooled:
        beside.pop()
    for n, outputs in enumerate(decoder[:4]):
        channels = convolution(up.format(n), channels, outputs) + beside.pop()
    for n, outputs in enumerate(decoder[4:]):
        channels = convolution(full.format(n), channels, outputs)
    convolution("flow", channels, dims, size)
    return made


def theirs(w: dict[str, torch.Tensor], moving, fixed, diffeomorphic: bool, downsize: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """The published network in torch's functions -> displacement, and the field that is regularised."""
    dims, mode = moving.dim() - 2, published.LINEAR[moving.dim() - 2]
    pooled = any("encoder" in key for key in w)

    def layer(x, name, stride=1):
        convolve = F.conv3d if dims == 3 else F.conv2d
        return F.leaky_relu(convolve(x, w[f"unet_model.{name}.main.weight"], w[f"unet_model.{name}.main.bias"], stride, 1), 0.2)

    x = torch.cat([moving, fixed], 1)
    kept = [x]
    for n in range(4):
        if pooled:
            kept.append(layer(x, f"encoder.{n}.0"))
            x = (F.max_pool3d if dims == 3 else F.max_pool2d)(kept[-1], 2)
        else:
            x = layer(x, f"downarm.{n}", 2)
            kept.append(x)
    beside = kept[1:] if pooled else kept[:-1]
    for n in range(4):
        x = layer(x, f"decoder.{n}.0" if pooled else f"uparm.{n}")
        x = torch.cat([F.interpolate(x, scale_factor=2), beside.pop()], 1)
    for n in range(3):
        x = layer(x, f"remaining.{n}" if pooled else f"extras.{n}")
    flow = (F.conv3d if dims == 3 else F.conv2d)(x, w["flow.weight"], w["flow.bias"], padding=1)
    if not diffeomorphic:
        return flow, flow
    velocity = F.interpolate(flow, scale_factor=1 / downsize, mode=mode, align_corners=True) / downsize
    half = torch.tensor([(n - 1) / 2 for n in velocity.shape[2:]]).reshape(-1, *[1] * dims)
    integrated = published.in_voxels(published.exponential((velocity / half).flip(1), padding="zeros"))
    return F.interpolate(integrated * downsize, size=moving.shape[2:], mode=mode, align_corners=True), velocity


@pytest.mark.parametrize(("variant", "count"), [("vxm-2", 301_411), ("vxm-1", 274_387)])
def test_parameters_are_as_many_as_published(variant, count):
    assert sum(p.numel() for p in VoxelMorph(variant).parameters()) == count


@pytest.mark.parametrize("diffeomorphic", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(("variant", "size"), [("vxm-2", (16, 32, 16)), ("vxm-1", (48, 32))])
def test_the_authors_weights_give_their_fields(variant, size, pooled, diffeomorphic):
    weights = checkpoint(variant, len(size), pooled)
    fixed, moving = pair(size)
    displacement, regularised = theirs(weights, moving, fixed, diffeomorphic)
    with torch.no_grad():
        fields = VoxelMorph.from_original(weights, diffeomorphic=diffeomorphic).fields(fixed, moving)
    assert displacement.abs().max() > 2  # voxels: some leave the image, where the field is 0
    assert_close("regularised", fields.regularised, regularised, 1e-4)
    assert_close("displacement", fields.displacement, displacement, 1e-4)


@pytest.mark.parametrize("downsize", [1, 4])
def test_the_velocitys_grid_may_be_another(downsize):
    weights = checkpoint("vxm-2", 2, False)
    fixed, moving = pair((32, 16))
    with torch.no_grad():
        fields = VoxelMorph.from_original(weights, diffeomorphic=True, int_downsize=downsize).fields(fixed, moving)
    assert tuple(fields.velocity.shape[2:]) == (32 // downsize, 16 // downsize)
    assert_close("displacement", fields.displacement, theirs(weights, moving, fixed, True, downsize)[0], 1e-4)


def test_a_new_network_moves_nothing():
    network = VoxelMorph(dims=2)
    assert network.flow.weight.std() < 2e-5 and not network.flow.bias.any()
    assert network(*pair((32, 32))).abs().max() < 1e-2


@pytest.mark.parametrize("diffeomorphic", [False, True])
def test_every_parameter_learns(diffeomorphic):
    fixed, moving = pair((16, 16, 32), batch=2)
    network = VoxelMorph(diffeomorphic=diffeomorphic)
    (ops.warp(moving, network(fixed, moving)) - fixed).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())


def test_gradients_are_those_of_the_published_network():
    """Resizing by our op, integrating by our op: the gradient too is that of torch's functions."""
    weights = checkpoint("vxm-1", 2, False)
    fixed, moving = pair((32, 16))
    network = VoxelMorph.from_original(weights, diffeomorphic=True)
    network(fixed, moving).square().mean().backward()
    flow = weights["flow.weight"].requires_grad_()
    theirs(weights, moving, fixed, True)[0].square().mean().backward()
    assert_close("gradient", network.flow.weight.grad, flow.grad, 1e-4)


def test_bfloat16_stays_close():
    fixed, moving = pair((16, 16, 32))
    network = VoxelMorph.from_original(checkpoint("vxm-2", 3, False), diffeomorphic=True)
    with torch.no_grad():
        want = network(fixed, moving)
        network = network.to(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16):
            got = network(fixed, moving)
    assert got.dtype == torch.float32
    assert_close("bf16", got, want, 0.05)


def test_identity_grids_in_a_checkpoint_are_left_out():
    weights = checkpoint("vxm-2", 3, True)
    grids = {"transformer.grid": torch.zeros(1, 3, 16, 16, 16), "integrate.transformer.grid": torch.zeros(1, 3, 8, 8, 8)}
    assert VoxelMorph.from_original(weights | grids).pooled


def _unknown(weights):
    weights["unet_model.downarm.0.norm.weight"] = torch.zeros(3)


def _both(weights):
    weights.update(checkpoint("vxm-2", 3, True))


def _missing(weights):
    del weights["unet_model.extras.1.main.bias"]


def _no_flow(weights):
    del weights["flow.weight"]


def _wide(weights):
    weights["unet_model.downarm.0.main.weight"] = torch.zeros(24, 2, 3, 3, 3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(_unknown, "not a key"), (_both, "one VxmDense"), (_missing, "Missing key"), (_no_flow, "lacks"), (_wide, "24 channels")],
)
def test_weights_of_something_else_are_refused(spoil, message):
    weights = checkpoint("vxm-2", 3, False)
    spoil(weights)
    with pytest.raises(ValueError, match=message) as raised:
        VoxelMorph.from_original(weights)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"variant": "vxm-3"}, "vxm-1, vxm-2"), ({"int_downsize": 3}, "int_downsize"), ({"int_steps": 0}, "int_steps"), ({"dims": 1}, "dims")],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        VoxelMorph(**options)


def test_sizes_are_multiples_of_16():
    assert VoxelMorph.multiple == 16
    with pytest.raises(ValueError, match="multiples of 16"):
        VoxelMorph()(*pair((16, 16, 24)))
