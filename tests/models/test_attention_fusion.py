"""Attention-guided fusion: what the masks take away, and that the attention never learns."""

import pytest
import torch
import torch.nn.functional as F

from regkit import ops
from regkit.errors import UsageError
from regkit.models import AttentionFusion
from regkit.models.mask_alignment import align_masks
from regkit.models.networks import build
from tests.models.pairs import pair

SMALL = {"attention": {"channels": 2}, "registration": {"channels": (2, 4, 4, 8)}}


def network(mask: str = "hard", threshold: float = 0.4, **options) -> AttentionFusion:
    """One that holds what is brighter than `threshold` for the structure, and whose fields are of some voxels."""
    torch.manual_seed(0)
    made = AttentionFusion(**{**SMALL, "mask": mask, **options}).eval()
    for head in made.registration.heads:
        torch.nn.init.normal_(head.weight, 0, 0.1)
    if made.attention is not None:
        made.attention.forward = lambda image: torch.cat([torch.zeros_like(image), 20 * (image - threshold)], 1)
    return made


def test_parameters():
    made = AttentionFusion()
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == 508_142
    assert not any(p.requires_grad for p in made.attention.parameters())
    assert sum(p.numel() for p in AttentionFusion(mask="none").parameters()) == 508_142


def test_a_hard_mask_keeps_the_structure_as_it_is_and_nothing_else():
    image = pair((16, 16))[0]
    cleaned = network().clean(image)
    assert torch.equal(cleaned.image, torch.where(image > 0.4, image, 0.0))
    torch.testing.assert_close(cleaned.probability, torch.sigmoid(20 * (image - 0.4)))


def test_a_soft_mask_is_the_probability():
    image = pair((16, 16))[0]
    cleaned = network("soft").clean(image)
    torch.testing.assert_close(cleaned.image, image * cleaned.probability)
    torch.testing.assert_close(cleaned.probability, torch.sigmoid(20 * (image - 0.4)))


def test_several_structures_are_one_mask():
    made = AttentionFusion(attention={"classes": 4, "channels": 2}, registration=SMALL["registration"]).eval()
    made.attention.forward = lambda image: torch.tensor([0.2, 0.1, 0.0, -0.1]).reshape(1, 4, 1, 1).expand(1, 4, 16, 16)
    image = pair((16, 16))[0]
    cleaned = made.clean(image)  # background is the likeliest of all, but less than half
    assert float(cleaned.probability.min()) > 0.5 and torch.equal(cleaned.image, image)


def test_without_a_mask_there_is_no_attention_network():
    made, (fixed, moving) = network("none"), pair((16, 16))
    cleaned = made.clean(fixed)
    assert made.attention is None and torch.equal(cleaned.image, fixed) and bool((cleaned.probability == 1).all())
    with torch.no_grad():
        assert torch.equal(made(fixed, moving), made.registration(fixed, moving))


@pytest.mark.parametrize("mask", ["hard", "soft"])
def test_what_is_registered_is_the_cleaned_pair(mask):
    made, (fixed, moving) = network(mask), pair((16, 32), batch=2)
    with torch.no_grad():
        u = made(fixed, moving)
        assert u.shape == (2, 2, 16, 32)
        assert torch.equal(u, made.registration(made.clean(fixed).image, made.clean(moving).image))
        assert not torch.equal(u, made.registration(fixed, moving))


def test_the_hard_mask_hides_what_lies_outside():
    made, (fixed, moving) = network(), pair((16, 16))
    with torch.no_grad():
        darker = torch.where(fixed > 0.4, fixed, fixed / 2)
        assert torch.equal(made(darker, moving), made(fixed, moving))


@pytest.mark.parametrize("mask", ["hard", "soft"])
def test_the_attention_never_learns(mask):
    torch.manual_seed(0)
    made, (fixed, moving) = AttentionFusion(**SMALL, mask=mask).train(), pair((32, 32), batch=2)
    before = {name: tensor.clone() for name, tensor in made.attention.state_dict().items()}
    assert made.training and made.registration.training and not any(part.training for part in made.attention.modules())
    for head in made.registration.heads:
        torch.nn.init.normal_(head.weight, 0, 0.1)
    optimiser = torch.optim.Adam(made.parameters(), 0.1)
    (ops.warp(moving, made(fixed, moving)) - fixed).square().mean().backward()
    optimiser.step()
    assert all(p.grad is None for p in made.attention.parameters())
    assert all(p.grad is not None for p in made.registration.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.attention.state_dict().items())


def test_an_untrained_network_is_near_the_identity():
    torch.manual_seed(0)
    with torch.no_grad():
        assert float(AttentionFusion()(*pair((32, 32), batch=2)).abs().max()) < 1e-2


def test_bfloat16_in_channels_last_stays_close():
    made, (fixed, moving) = network("soft"), pair((32, 32), batch=2)
    with torch.no_grad():
        want = made(fixed, moving)
        made = made.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            got = made(fixed, moving)
    assert got.dtype == torch.float32
    assert float((got - want).abs().max()) < 0.05 * float(want.abs().max())


def test_three_axes():
    with torch.no_grad():
        assert AttentionFusion(**SMALL, dims=3)(*pair((16, 16, 16))).shape == (1, 3, 16, 16, 16)


def test_built_by_name_with_options_as_a_card_has_them():
    made = build("attention-fusion", {"registration": {"scales": 2, "fuse": "direct"}, "mask": "soft"})
    assert len(made.registration.heads) == 2 and made.multiple == 16
    assert build("ac-regnet", {"dropout": 0.0}).multiple == 8
    with pytest.raises(UsageError, match="attention-fusion: gate must be"):
        build("attention-fusion", {"registration": {"gate": "x"}})


@pytest.mark.parametrize("mask", ["hard", "none"])
def test_odd_sizes_are_refused(mask):
    made = network(mask)
    with pytest.raises(ValueError, match="multiples of 16"):
        made(*pair((16, 24)))
    with pytest.raises(ValueError, match="multiples of 16"):
        made.clean(pair((16, 24))[0])


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="mask must be one of hard, soft, none"):
        AttentionFusion(mask="binary")


@pytest.mark.parametrize("diffeomorphic", [False, True])
def test_refinement_brings_the_masks_together(diffeomorphic):
    """Two discs 3 pixels apart, and a network that says nothing yet."""
    i, j = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    fixed, moving = ((((i - 16) ** 2 + (j - c) ** 2).sqrt() < 7).float()[None, None] for c in (14, 17))
    made = AttentionFusion(
        attention={"channels": 2},
        registration={"channels": (2, 4, 4, 8), "diffeomorphic": diffeomorphic},
        refinement={"iterations": 60, "smoothness": 0.1},
    ).eval()
    made.attention.forward = lambda image: torch.cat([torch.zeros_like(image), 8 * (image - 0.5)], 1)
    with torch.no_grad():
        u, plain = made(fixed, moving), made.registration(fixed, moving)
        before, after = (float((ops.warp(moving, field) - fixed).abs().mean()) for field in (plain, u))
    assert after < 0.2 * before and not u.requires_grad
    assert not diffeomorphic or float(ops.jacobian_summary(u).folds) == 0
    assert float(u[0, 1, 10:22, 8:20].mean()) > 1  # along the axis on which they lie apart


@pytest.mark.parametrize("diffeomorphic", [False, True])
def test_a_shrunken_registration_gives_a_field_of_full_size(diffeomorphic):
    """On masks of full size: the field of the small images, doubled."""
    made = network(registration={"channels": (2, 4, 4, 8), "diffeomorphic": diffeomorphic}, shrink=2)
    fixed, moving = pair((32, 64), batch=2)
    with torch.no_grad():
        u = made(fixed, moving)
        small = [F.avg_pool2d(made.clean(image).image, 2) for image in (fixed, moving)]
        found = made.registration.fields(*small)[-1].regularised
        wanted = 2 * F.interpolate(found, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(made.register(made.clean(fixed), made.clean(moving)).field, wanted)
    torch.testing.assert_close(u, ops.integrate_velocity(wanted) if diffeomorphic else wanted)
    assert network(shrink=4).multiple == 32 and made.multiple == 16 and network(shrink=3).multiple == 48
    with pytest.raises(ValueError, match="shrink must be at least 1"):
        network(shrink=0)


@pytest.mark.parametrize("shrink", [1, 2])
def test_alignment_scales_and_shifts_the_moving_mask_onto_the_fixed_one(shrink):
    """Two ellipses of other sizes, far apart, and a network that says nothing yet."""
    i, j = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    fixed, moving = (
        ((((i - x) / a) ** 2 + ((j - y) / b) ** 2) < 1).float()[None, None] for x, y, a, b in ((20, 22, 9, 14), (42, 38, 15, 10))
    )
    made = network("soft", threshold=0.5, align="moments", shrink=shrink)
    for head in made.registration.heads:
        torch.nn.init.zeros_(head.weight)
    with torch.no_grad():
        u = made(fixed, moving)
    overlap = 2 * (ops.warp(moving, u) * fixed).sum() / (ops.warp(moving, u).sum() + fixed.sum())
    assert float((moving * fixed).sum()) < 20 and float(overlap) > 0.97
    axes = torch.stack([i, j])
    torch.testing.assert_close(
        u[0],
        torch.tensor([15 / 9, 10 / 14]).reshape(2, 1, 1) * (axes - torch.tensor([[[20.0]], [[22.0]]]))
        + torch.tensor([[[42.0]], [[38.0]]])
        - axes,
        atol=0.7,
        rtol=0,
    )


def test_alignment_of_an_empty_mask_is_none():
    empty, some = torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
    still = torch.zeros(1, 2, 16, 16)
    for masks in ((empty, some), (some, empty), (empty, empty)):
        assert torch.equal(align_masks(*masks).then(still), still)


def test_alignment_and_a_field_are_one_after_the_other():
    aligned = align_masks(*(torch.rand(2, 1, 12, 10, generator=torch.Generator().manual_seed(n)) for n in (0, 1)))
    v = torch.rand(2, 2, 12, 10, generator=torch.Generator().manual_seed(2))
    moving = torch.rand(2, 1, 12, 10, generator=torch.Generator().manual_seed(3))
    one = ops.warp(moving, ops.compose(aligned.then(torch.zeros_like(v)), v), padding="border")
    torch.testing.assert_close(ops.warp(moving, aligned.then(v), padding="border")[..., :-2, :-2], one[..., :-2, :-2])


@pytest.mark.parametrize("asked", [{"refinement": {"iterations": 1}}, {"align": "moments"}])
def test_refinement_and_alignment_need_masks(asked):
    with pytest.raises(UsageError, match="needs masks"):
        build("attention-fusion", {"mask": "none", **asked})
