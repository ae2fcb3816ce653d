"""LapIRN is the published network: sizes, the authors' weights and their output; fields in voxels; what it refuses."""

import pytest
import torch

from regkit import ops
from regkit.models import LapIRN
from tests.models import published
from tests.models.pairs import pair
from tests.ops.compare import assert_close


@pytest.mark.parametrize(("start_channels", "count"), [(7, 923_748), (6, 680_616), (8, 1_203_936)])
def test_parameters_are_as_many_as_published(start_channels, count):
    assert sum(p.numel() for p in LapIRN(start_channels=start_channels).parameters()) == count


@pytest.mark.parametrize("diffeomorphic", [False, True])
@pytest.mark.parametrize(("size", "levels"), [((16, 24, 32), 3), ((16, 24), 2), ((8, 12, 10), 1)])
def test_the_authors_weights_give_their_fields_at_every_level(size, levels, diffeomorphic):
    dims = len(size)
    weights = published.weights(levels, 8, dims)
    fixed, moving = pair(size)
    network = LapIRN.from_original(weights, diffeomorphic=diffeomorphic)
    theirs = [published.in_voxels(field) for field in published.fields(weights, moving, fixed, diffeomorphic)]
    with torch.no_grad():
        ours = network.pyramid(fixed, moving)
    assert len(ours) == len(theirs) == levels
    for level, (mine, want) in enumerate(zip(ours, theirs), start=1):
        assert want.abs().max() > 0.3  # voxels: there is something to compare
        assert_close(f"level {level}", mine.displacement, want, 1e-4)
        assert (mine.velocity is not None) == diffeomorphic


def test_lite_weights_load_too():
    weights = published.weights(3, 8, 3, lite=True)
    fixed, moving = pair((16, 16, 24))
    with torch.no_grad():
        displacement = LapIRN.from_original(weights)(fixed, moving)
    assert_close("lite", displacement, published.in_voxels(published.fields(weights, moving, fixed)[-1]), 1e-4)


def test_identity_grids_in_a_checkpoint_are_left_out():
    weights = published.weights(2, 4, 3)
    grids = {"grid_1": torch.zeros(1, 8, 8, 8, 3), "model_lvl1.grid_1": torch.zeros(1, 4, 4, 4, 3)}
    assert LapIRN.from_original(weights | grids).state_dict().keys() == LapIRN.from_original(weights).state_dict().keys()


def _missing(weights):
    del weights["down_conv.weight"]


def _unknown(weights):
    weights["model_lvl1.attention.weight"] = torch.zeros(3)


def _wrong_shape(weights):
    weights["up.weight"] = torch.zeros(4, 4, 3, 3, 3)


def _wrong_nesting(weights):
    weights["model_lvl2.down_conv.weight"] = weights["down_conv.weight"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(_missing, "Missing key"), (_unknown, "attention.weight is not a key"), (_wrong_shape, "size mismatch"), (_wrong_nesting, "2 levels")],
)
def test_weights_of_something_else_are_refused(spoil, message):
    weights = published.weights(2, 4, 3)
    spoil(weights)
    with pytest.raises(ValueError, match=message) as raised:
        LapIRN.from_original(weights)
    assert "\n" not in str(raised.value)


def test_an_empty_checkpoint_is_refused():
    with pytest.raises(ValueError, match="holds no weights"):
        LapIRN.from_original({})


def test_depth_gives_the_first_levels():
    fixed, moving = pair((16, 16, 24))
    network = LapIRN(start_channels=1)
    with torch.no_grad():
        levels = network.pyramid(fixed, moving)
        assert [tuple(level.displacement.shape[2:]) for level in levels] == [(4, 4, 6), (8, 8, 12), (16, 16, 24)]
        assert torch.equal(network.pyramid(fixed, moving, 2)[-1].displacement, levels[1].displacement)
        assert torch.equal(network(fixed, moving), levels[-1].displacement)


def test_a_level_warps_the_moving_image_at_full_size():
    """Sampling the full-size image from a coarse grid is what grid_sample does with a coarse field."""
    weights = published.weights(2, 8, 3)
    fixed, moving = pair((16, 24, 16))
    with torch.no_grad():
        level = LapIRN.from_original(weights).pyramid(fixed, moving, 1)[0]
    warped = ops.warp(moving, level.at(moving.shape[2:]), padding="border")
    assert_close("warped", warped, published.sample(moving, published.fields(weights, moving, fixed)[0]), 1e-4)


def test_the_displacement_is_the_velocity_integrated():
    fixed, moving = pair((16, 16))
    with torch.no_grad():
        for level in LapIRN.from_original(published.weights(2, 8, 2), diffeomorphic=True).pyramid(fixed, moving):
            assert level.regularised is level.velocity
            assert torch.equal(level.displacement, ops.integrate_velocity(level.velocity, steps=7))


def test_every_parameter_learns():
    fixed, moving = pair((16, 16, 16), batch=2)
    network = LapIRN(start_channels=2, diffeomorphic=True)
    (ops.warp(moving, network(fixed, moving)) - fixed).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("channels_last", [False, True])
def test_bfloat16_stays_close(channels_last):
    fixed, moving = pair((16, 16, 24))
    network = LapIRN.from_original(published.weights(3, 8, 3))
    with torch.no_grad():
        want = network(fixed, moving)
        if channels_last:
            network = network.to(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16):
            got = network(fixed, moving)
    assert got.dtype == torch.float32
    assert_close("bf16", got, want, 0.05)


def test_pairs_of_a_batch_do_not_meet():
    fixed, moving = pair((16, 16, 16), batch=2)
    network = LapIRN.from_original(published.weights(2, 8, 3))
    with torch.no_grad():
        both = network(fixed, moving)
        assert_close("second", both[1:], network(fixed[1:], moving[1:]), 1e-5)


@pytest.mark.parametrize(
    ("fixed", "moving", "message"),
    [
        ((1, 1, 16, 16, 12), (1, 1, 16, 16, 12), "multiples of 8"),
        ((1, 1, 16, 16, 16), (1, 1, 16, 16, 24), "of one size"),
        ((1, 2, 16, 16, 16), (1, 2, 16, 16, 16), r"\(B, 1, 3 axes\)"),
        ((1, 1, 16, 16), (1, 1, 16, 16), "3 axes"),
        ((1, 1, 0, 16, 16), (1, 1, 0, 16, 16), "multiples of 8"),
    ],
)
def test_wrong_images_are_named(fixed, moving, message):
    with pytest.raises(ValueError, match=message):
        LapIRN(start_channels=1)(torch.zeros(fixed), torch.zeros(moving))


@pytest.mark.parametrize("options", [{"levels": 0}, {"start_channels": 0}, {"dims": 4}])
def test_wrong_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        LapIRN(**options)
