"""The dense registration network: its fusion is Eq. 5 (and 6) written out, in the voxels of each level; what its options change."""

import pytest
import torch
import torch.nn.functional as F

from regkit import ops
from regkit.models import DenseFusion
from tests.models.pairs import pair
from tests.ops.compare import assert_close

LINEAR = {2: "bilinear", 3: "trilinear"}


def network(seed: int = 0, size: float = 0.1, **options) -> DenseFusion:
    """One whose heads give fields of some voxels."""
    torch.manual_seed(seed)
    made = DenseFusion(**options)
    for head in made.heads:
        torch.nn.init.normal_(head.weight, 0, size)
        torch.nn.init.normal_(head.bias, 0, 0.5)
    return made.eval()


def scale_fields(size=(8, 16), batch: int = 2) -> list[torch.Tensor]:
    """Made c_k, coarse to fine."""
    torch.manual_seed(1)
    return [torch.randn(batch, len(size), *(n // 2**k for n in size)) for k in (3, 2, 1, 0)]


def doubled(field: torch.Tensor) -> torch.Tensor:
    return 2 * F.interpolate(field, scale_factor=2, mode=LINEAR[field.dim() - 2], align_corners=False)


def weights(attention: torch.nn.Module, field: torch.Tensor) -> torch.Tensor:
    """FieldAttention, component by component, in torch's functions."""
    convolve, parts = (F.conv3d if field.dim() == 5 else F.conv2d), []
    for d, gate in enumerate(attention.components):
        x, layers = field[:, [d]], [module for module in gate if hasattr(module, "weight")]
        for n, layer in enumerate(layers):
            x = convolve(F.relu(x) if n else x, layer.weight, layer.bias, padding=1)
        parts.append(1 / (1 + (-x).exp()))
    return torch.cat(parts, 1)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 508_142),
        ({"attention": False}, 492_392),
        ({"attention": False, "scales": 1}, 488_354),  # AC-RegNet, a bias in place of the last normalisation
        ({"gate": "own", "fuse": "direct", "diffeomorphic": True}, 508_142),
    ],
)
def test_parameters(options, count):
    assert sum(p.numel() for p in DenseFusion(**options).parameters()) == count


@pytest.mark.parametrize("gate", ["lower", "own"])
@pytest.mark.parametrize("size", [(8, 16), (8, 8, 16)])
def test_chained_is_equation_5(size, gate):
    made, c = network(dims=len(size), gate=gate), scale_fields(size)
    with torch.no_grad():
        a = [c[0]]
        for k in (1, 2, 3):
            d = doubled(a[-1])
            a.append(d * weights(made.gates[k - 1], d if gate == "lower" else c[k]) + c[k])
        for level, (got, want) in enumerate(zip(made.fused(c), a)):
            assert_close(f"a, level {level}", got, want, 1e-5)


@pytest.mark.parametrize("gate", ["lower", "own"])
def test_direct_is_equation_6(gate):
    made, c = network(fuse="direct", gate=gate), scale_fields()
    with torch.no_grad():
        got = made.fused(c)
        for k in (1, 2, 3):
            d = doubled(c[k - 1])
            assert_close(f"a, level {k}", got[k], d * weights(made.gates[k - 1], d if gate == "lower" else c[k]) + c[k], 1e-5)
        chained = network(gate=gate).fused(c)
    assert_close("coarsest two", got[1], chained[1], 1e-6)  # up to there they agree
    assert (got[-1] - chained[-1]).abs().max() > 0.1


def test_direct_leaves_the_coarse_scales_out_of_the_displacement():
    made, c = network(fuse="direct"), scale_fields()
    with torch.no_grad():
        assert torch.equal(made.fused([0 * c[0], 0 * c[1], *c[2:]])[-1], made.fused(c)[-1])
        assert not torch.equal(network().fused([0 * c[0], *c[1:]])[-1], network().fused(c)[-1])


@pytest.mark.parametrize("size", [(8, 16), (8, 8, 16)])
def test_a_constant_coarse_field_comes_out_in_finer_voxels_along_its_own_axis(size):
    """One voxel of the coarsest grid is eight of the finest; component d stays component d."""
    made = DenseFusion(dims=len(size), attention=False)
    for axis in range(len(size)):
        c = [torch.zeros_like(field) for field in scale_fields(size)]
        c[0][:, axis] = 1.0
        for factor, field in zip((1, 2, 4, 8), made.fused(c)):
            want = torch.zeros_like(field)
            want[:, axis] = factor
            torch.testing.assert_close(field, want)


@pytest.mark.parametrize("axis", [0, 1])
def test_component_d_moves_along_array_axis_d(axis):
    """A head that says 'three voxels, component d' for everything brings a ramp three voxels further along axis d."""
    made = DenseFusion(scales=1).eval()
    with torch.no_grad():
        made.heads[0].weight.zero_()
        made.heads[0].bias[axis] = 3.0
        ramp = torch.arange(16.0).expand(16, 16).movedim(1, axis)[None, None] / 16
        warped = ops.warp(ramp.contiguous(), made(torch.zeros(1, 1, 16, 16), ramp), padding="border")
    want = (ramp + 3 / 16).clamp(max=15 / 16)
    torch.testing.assert_close(warped, want, rtol=0, atol=1e-5)


def test_a_component_is_weighed_by_itself_alone():
    made, c = network(), scale_fields()
    other = [field.clone() for field in c]
    for field in other:
        field[:, 1] += 1
    with torch.no_grad():
        got, want = made.fused(other)[-1], made.fused(c)[-1]
    assert torch.equal(got[:, 0], want[:, 0]) and not torch.equal(got[:, 1], want[:, 1])


@pytest.mark.parametrize("size", [(16, 24), (8, 8, 16)])
@pytest.mark.parametrize("diffeomorphic", [False, True])
def test_fields_are_of_every_level_and_the_last_is_the_displacement(size, diffeomorphic):
    made, (fixed, moving) = network(dims=len(size), diffeomorphic=diffeomorphic), pair(size, batch=2)
    with torch.no_grad():
        found, u = made.fields(fixed, moving), made(fixed, moving)
        wanted = made.fused(made.scale_fields(fixed, moving))
    assert [tuple(level.displacement.shape) for level in found] == [(2, len(size), *(n // 2**k for n in size)) for k in (3, 2, 1, 0)]
    assert torch.equal(u, found[-1].displacement) and u.dtype == torch.float32
    for level, field in zip(found, wanted):
        assert torch.equal(level.regularised, field)
        assert (level.velocity is not None) == diffeomorphic
        if diffeomorphic:
            assert torch.equal(level.displacement, ops.integrate_velocity(field, steps=7))


@pytest.mark.parametrize("scales", [1, 2, 3, 4])
def test_scales_are_the_finest(scales):
    made, (fixed, moving) = network(scales=scales), pair((16, 16))
    with torch.no_grad():
        found = made.fields(fixed, moving)
    assert [level.displacement.shape[-1] for level in found] == [2, 4, 8, 16][-scales:]


def test_diffeomorphic_does_not_fold_where_a_displacement_does():
    """A smooth field: the coarsest scale alone, as its head finds it."""
    fixed, moving = pair((32, 64))
    folded = []
    for diffeomorphic in (False, True):
        made = network(diffeomorphic=diffeomorphic, attention=False, size=16.0)
        with torch.no_grad():
            for head in made.heads[1:]:
                head.weight.zero_()
            u = made(fixed, moving)
        folded.append(int((ops.jacobian_determinant(u) <= 0).sum()))
    assert folded[0] > 10 and folded[1] == 0


@pytest.mark.parametrize("options", [{}, {"diffeomorphic": True}, {"gate": "own"}, {"attention": False, "scales": 2}])
def test_an_untrained_network_is_near_the_identity(options):
    torch.manual_seed(0)
    with torch.no_grad():
        u = DenseFusion(**options)(*pair((32, 32), batch=4))
    assert 0 < float(u.abs().max()) < 1e-2


@pytest.mark.parametrize("options", [{}, {"gate": "own", "diffeomorphic": True}, {"attention": False}])
def test_every_parameter_learns(options):
    fixed, moving = pair((16, 16), batch=2)
    made = network(**options).train()
    (ops.warp(moving, made(fixed, moving)) - fixed).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in made.parameters())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(32, 48), (24, 16, 16)])
def test_bfloat16_stays_close(size, channels_last):
    made, (fixed, moving) = network(dims=len(size), size=0.03), pair(size, batch=2)
    results = []
    for enabled in (False, True):
        made.zero_grad()
        if enabled and channels_last:
            made = made.to(memory_format=torch.channels_last if len(size) == 2 else torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            u = made(fixed, moving)
        u.square().mean().backward()
        results.append((u.detach(), [p.grad.clone() for p in made.parameters()]))
    (want, gradients), (got, halves) = results
    assert got.dtype == torch.float32
    assert_close("displacement", got, want, 0.05)
    for (name, _), expected, found in zip(made.named_parameters(), gradients, halves):
        assert_close(name, found, expected, 0.2)


def test_a_pair_in_evaluation_does_not_depend_on_the_batch():
    made, (fixed, moving) = network(), pair((16, 16), batch=2)
    with torch.no_grad():
        assert_close("second", made(fixed, moving)[1:], made(fixed[1:], moving[1:]), 1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": 5}, "scales must be 1 to 4"),
        ({"scales": 0}, "scales"),
        ({"gate": "upper"}, "gate must be one of lower, own"),
        ({"fuse": "Eq. 5"}, "fuse must be one of chained, direct"),
        ({"int_steps": 0}, "int_steps"),
        ({"dims": 1}, "dims"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DenseFusion(**options)


def test_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="multiples of 8"):
        DenseFusion()(*pair((16, 20)))
