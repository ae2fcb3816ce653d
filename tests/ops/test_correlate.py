"""correlate_keypoints: the C++ kernel against the float64 reference, and the reference against a direct sum."""

import os
import subprocess
import sys

import pytest
import torch

from regkit import ops
from tests.benchmarks.peers.correlate import grouped_convolution_ssd
from tests.ops.compare import assert_close

METRICS = ("ssd", "dot", "cosine")
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13, torch.float16: 2e-3, torch.bfloat16: 1e-2}
# search_radius, stride, patch_radius, patch_stride: patch samples on the lattice of displacements, between its points, and both
SEARCHES = [
    (0, 1, 0, 1),
    (0, 1, 1, 1),
    (2, 1, 0, 1),
    (1, 1, 1, 1),
    (3, 1, 2, 1),
    (2, 2, 1, 1),
    (2, 3, 1, 2),
    (3, 2, 2, 2),
    (2, 1, 1, 2),
    (1, 4, 2, 1),
    (9, 1, 0, 1),  # rows of more than one vector, which are taken where they lie in the image
]


def features(dims: int, dtype=torch.float32, channels: int = 5):
    """Features of two odd shapes and positions in and around them."""
    torch.manual_seed(dims)
    fixed = torch.randn(2, channels, *(13, 11, 17)[:dims]).to(dtype)
    moving = torch.randn(2, channels, *(12, 14, 19)[:dims]).to(dtype)
    return fixed, moving, torch.rand(2, 7, dims) * 19 - 3, torch.rand(2, 7, dims) * 24 - 4


def options(search, metric="ssd", **more):
    return dict(zip(("search_radius", "stride", "patch_radius", "patch_stride"), search)) | {"metric": metric} | more


def gradients(function, *inputs):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(out.dtype)
    return torch.autograd.grad(out, leaves, weight)


def reference(function, *inputs):
    with ops.backend("reference"):
        return function(*(x.double() for x in inputs))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dims", (2, 3))
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_values_and_gradients_follow_the_reference(dtype, dims, metric):
    fixed, moving, keypoints, center = features(dims, dtype)
    for search in SEARCHES:

        def correlate(f, m):
            return ops.correlate_keypoints(f, m, keypoints, center=center, **options(search, metric))

        got, want = correlate(fixed, moving), reference(correlate, fixed, moving)
        assert got.dtype == dtype
        assert_close(f"{metric} {search}", got, want, TOLERANCE[dtype])
        grads = gradients(correlate, fixed, moving), reference(lambda f, m: gradients(correlate, f, m), fixed, moving)
        for name, g, w in zip(("fixed", "moving"), *grads):
            assert g.dtype == dtype
            assert_close(f"{metric} {search} gradient by {name}", g, w, 2 * TOLERANCE[dtype])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [(5, 7), (6, 40), (3, 70)], ids=str)
def test_rows_of_any_length(size, metric):
    """A search wider than the image, as wide, and narrower: rows in place, and what repeats their borders."""
    torch.manual_seed(0)
    fixed, moving = (torch.randn(1, 3, *size) for _ in range(2))
    keypoints = torch.rand(1, 20, 2) * 1.4 * torch.tensor(size) - 0.2 * torch.tensor(size)
    for search_radius in (7, 8, 15, 16, 20, 24):

        def correlate(f, m):
            return ops.correlate_keypoints(f, m, keypoints, search_radius=search_radius, metric=metric)  # noqa: B023

        assert_close(f"radius {search_radius}", correlate(fixed, moving), reference(correlate, fixed, moving), 2e-6)
        grads = gradients(correlate, fixed, moving), reference(lambda f, m: gradients(correlate, f, m), fixed, moving)
        for name, g, w in zip(("fixed", "moving"), *grads):
            assert_close(f"radius {search_radius}, gradient by {name}", g, w, 4e-6)


@pytest.mark.parametrize("points", [1, 7, 60], ids="{} keypoints".format)  # few are read where they lie, many from a copy
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("dims", (2, 3))
def test_channels_may_be_last(dims, dtype, points):
    fixed, moving, *_ = features(dims, dtype)
    keypoints = torch.rand(2, points, dims) * 24 - 4
    memory_format = torch.channels_last if dims == 2 else torch.channels_last_3d
    last = [x.contiguous(memory_format=memory_format) for x in (fixed, moving)]
    assert not last[0].is_contiguous()
    for search in ((2, 1, 0, 1), (2, 2, 1, 1), (9, 1, 0, 1)):

        def correlate(f, m):
            return ops.correlate_keypoints(f, m, keypoints, **options(search, "cosine"))  # noqa: B023

        # In place and in a window, sums are added up in another order.
        for got, want in zip(
            (correlate(*last), *gradients(correlate, *last)), (correlate(fixed, moving), *gradients(correlate, fixed, moving))
        ):
            assert_close(str(search), got, want, TOLERANCE[dtype])


def test_reference_is_the_sum_it_says():
    fixed, moving, keypoints, center = features(3, torch.float64, channels=2)
    with ops.backend("reference"):
        got = ops.correlate_keypoints(fixed, moving, keypoints, center=center, **options((1, 2, 1, 1)))

    def at(image, position):
        return image[:, *(int(p.clamp(0, n - 1)) for p, n in zip(position, image.shape[1:]))]

    offsets = torch.cartesian_prod(*[torch.arange(-1, 2)] * 3)
    for b, n in ((0, 0), (1, 3), (1, 6)):
        k, c = (keypoints[b, n] + 0.5).floor().long(), (center[b, n] + 0.5).floor().long()
        want = torch.stack(
            [sum((at(fixed[b], k + p) - at(moving[b], c + 2 * d + p)).square().sum() for p in offsets) / 27 for d in offsets]
        )
        assert_close("ssd", got[b, n], want, 1e-14)


def test_the_grouped_convolution_of_the_literature_gives_the_same():
    torch.manual_seed(0)
    fixed, moving = torch.randn(1, 4, 12, 15, 13), torch.randn(1, 4, 12, 15, 13)
    keypoints = torch.randint(0, 12, (1, 60, 3))
    for patch_radius in (0, 1, 2):
        got = ops.correlate_keypoints(fixed, moving, keypoints, search_radius=3, patch_radius=patch_radius)
        assert_close(f"patch radius {patch_radius}", got, grouped_convolution_ssd(fixed, moving, keypoints, 3, patch_radius), 1e-6)


def test_a_shifted_image_is_found_at_its_shift():
    torch.manual_seed(0)
    moving = torch.rand(1, 1, 30, 31, 32)
    fixed = moving.roll((-2, 1, 3), (2, 3, 4))  # fixed(x) = moving(x + (2, -1, -3))
    keypoints = torch.tensor([[[15, 15, 15], [10, 20, 18]]])
    best = ops.correlate_keypoints(fixed, moving, keypoints, search_radius=4, patch_radius=1).argmin(2)
    i, j, k = best // 81 - 4, best // 9 % 9 - 4, best % 9 - 4
    assert torch.stack([i, j, k], -1).tolist() == [[[2, -1, -3]] * 2]


def test_center_moves_the_search():
    fixed, moving, keypoints, _ = features(3)
    shifted = ops.correlate_keypoints(fixed, moving, keypoints, search_radius=2, center=keypoints + torch.tensor([1, 0, -1]))
    whole = ops.correlate_keypoints(fixed, moving, keypoints, search_radius=3).unflatten(2, (7, 7, 7))
    torch.testing.assert_close(shifted.unflatten(2, (5, 5, 5)), whole[:, :, 2:7, 1:6, 0:5], rtol=0, atol=0)


def test_positions_round_to_the_nearest_voxel():
    fixed, moving, *_ = features(2)
    fractional = torch.tensor([[[3.4, 2.5], [float("nan"), -0.5]]] * 2)
    whole = torch.tensor([[[3, 3], [0, 0]]] * 2, dtype=torch.int32)
    assert torch.equal(*(ops.correlate_keypoints(fixed, moving, k, search_radius=1) for k in (fractional, whole)))


@pytest.mark.parametrize("metric", METRICS)
def test_gradcheck(metric):
    torch.manual_seed(0)
    keypoints = torch.rand(1, 3, 2) * 6
    fixed, moving = (torch.randn(1, 2, *shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 6), (6, 5)))
    for search in ((1, 1, 1, 1), (1, 2, 1, 1), (1, 1, 0, 1)):
        for backend in ("cpp", "reference"):
            with ops.backend(backend):
                assert torch.autograd.gradcheck(
                    lambda f, m: ops.correlate_keypoints(f, m, keypoints, **options(search, metric)), (fixed, moving)
                )


def test_only_the_wanted_gradient_is_computed():
    fixed, moving, keypoints, _ = features(2)
    for needs in ((True, False), (False, True)):
        f, m = (x.clone().requires_grad_(need) for x, need in zip((fixed, moving), needs))
        ops.correlate_keypoints(f, m, keypoints, search_radius=1).sum().backward()
        assert ((f.grad is not None), (m.grad is not None)) == needs
        arguments = torch.ones(2, 7, 9), fixed, moving, keypoints.long(), keypoints.long(), 1, 1, 0, 1, 0, *needs
        assert [g.numel() > 0 for g in torch.ops.regkit.correlate_keypoints_backward(*arguments)] == list(needs)


def test_zero_norms_have_a_finite_cosine_and_gradient():
    fixed, moving = torch.zeros(1, 2, 5, 5), torch.randn(1, 2, 5, 5)
    keypoints = torch.tensor([[[2, 2]]])
    for pair in ((fixed, moving), (moving, fixed), (fixed, fixed)):
        assert not ops.correlate_keypoints(*pair, keypoints, search_radius=1, metric="cosine").any()
        for g in gradients(lambda f, m: ops.correlate_keypoints(f, m, keypoints, search_radius=1, metric="cosine"), *pair):
            assert g.isfinite().all()


def test_matching_patches_lose_no_precision():
    """Bright features that match: expanding the square would leave rounding noise of 1e6 * 1e-7."""
    torch.manual_seed(0)
    moving = 1000 + torch.rand(1, 3, 9, 9, 9)
    fixed = moving + 1e-3 * torch.randn_like(moving)
    keypoints = torch.tensor([[[4, 4, 4]]])
    correlate = lambda f, m: ops.correlate_keypoints(f, m, keypoints, search_radius=1, patch_radius=1)  # noqa: E731
    assert_close("ssd", correlate(fixed, moving), reference(correlate, fixed, moving), 1e-6)
    wanted = reference(lambda f, m: gradients(correlate, f, m), fixed, moving)
    for name, g, w in zip(("fixed", "moving"), gradients(correlate, fixed, moving), wanted):
        assert_close(f"gradient by {name}", g, w, 1e-5)


@pytest.mark.parametrize("dims", (2, 3))
def test_strided_inputs(dims):
    fixed, moving, keypoints, _ = features(dims)
    strided = [x.movedim(1, -1).contiguous().movedim(-1, 1) for x in (fixed, moving)]
    assert not strided[0].is_contiguous()
    points = keypoints.repeat_interleave(2, 1)[:, ::2]
    assert torch.equal(
        ops.correlate_keypoints(*strided, points, search_radius=2, patch_radius=1),
        ops.correlate_keypoints(fixed, moving, keypoints, search_radius=2, patch_radius=1),
    )


def test_features_of_two_dtypes():
    fixed, moving, keypoints, _ = features(3)
    got = ops.correlate_keypoints(fixed.half(), moving, keypoints, search_radius=2)
    assert got.dtype == torch.float16
    assert_close("ssd", got, ops.correlate_keypoints(fixed.half().float(), moving, keypoints, search_radius=2), 1e-3)


def test_empty_and_singleton():
    for shape in ((2, 3, 1, 6, 1), (2, 3, 1, 1)):
        fixed, dims = torch.randn(shape), len(shape) - 2
        keypoints = torch.zeros(2, 4, dims)
        correlate = lambda f, m: ops.correlate_keypoints(f, m, keypoints, search_radius=2, patch_radius=1)  # noqa: E731
        assert_close(str(shape), correlate(fixed, fixed + 1), reference(correlate, fixed, fixed + 1), 1e-6)
        assert ops.correlate_keypoints(fixed, fixed, keypoints[:, :0], search_radius=2).shape == (2, 0, 5**dims)
        assert ops.correlate_keypoints(fixed[:0], fixed[:0], keypoints[:0], search_radius=2).shape == (0, 4, 5**dims)
        for g in gradients(lambda f, m: ops.correlate_keypoints(f, m, keypoints[:, :0], search_radius=2), fixed, fixed):
            assert not g.any()
    assert not ops.correlate_keypoints(torch.ones(1, 0, 4, 4), torch.ones(1, 0, 4, 4), torch.zeros(1, 2, 2), search_radius=1).any()


def test_nan_stays_where_it_is_seen():
    fixed, moving, keypoints, center = features(3)
    moving[0, 1, 6, 6, 6] = float("nan")
    for search in ((2, 1, 1, 1), (4, 1, 0, 1)):
        correlate = lambda f, m: ops.correlate_keypoints(f, m, keypoints, center=center, **options(search))  # noqa: E731, B023
        assert_close(f"ssd {search}", correlate(fixed, moving), reference(correlate, fixed, moving), 1e-6)


def test_results_do_not_depend_on_the_threads():
    fixed, moving, keypoints, _ = features(3)
    keypoints = keypoints.repeat(1, 12, 1) + torch.arange(84)[:, None] * 0.1
    results, threads = {1: [], 3: []}, torch.get_num_threads()
    try:
        for count, tensors in results.items():
            torch.set_num_threads(count)
            for metric in METRICS:
                correlate = lambda f, m: ops.correlate_keypoints(f, m, keypoints, **options((2, 1, 1, 1), metric))  # noqa: E731, B023
                tensors += [correlate(fixed, moving), *gradients(correlate, fixed, moving)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results.values()))


SCRIPT = """
import torch
from regkit import ops
torch.manual_seed(0)
f, m = (torch.randn(1, 3, *s) for s in ((9, 10, 11), (12, 9, 10)))
points, basis = torch.rand(1, 9, 3) * 10, torch.randn(343, 37)
functions = {
    "expected": lambda f, m: ops.expected_displacement(f, m, points, sharpness=0.1, search_radius=6),
    "embed": lambda f, m: ops.embed_displacements(f, m, points, basis.to(f), search_radius=3),
    "dense dot": lambda f, m: ops.correlate_dense(f, f.flip(2), radius=2),
    "dense ssd": lambda f, m: ops.correlate_dense(m, m.flip(2), radius=1, stride=2, metric="ssd"),
}
for metric in ("ssd", "dot", "cosine"):
    for search in (dict(search_radius=6), dict(search_radius=2, patch_radius=1), dict(search_radius=1, patch_radius=2, stride=2)):
        functions[f"{metric} {search}"] = lambda f, m, o=search | {"metric": metric}: ops.correlate_keypoints(f, m, points, **o)
for name, function in functions.items():
    # The gradient of the cosine of a few channels is a small difference of large sums.
    for dtype, tolerance in ((torch.float32, 5e-5 if "cosine" in name else 1e-5), (torch.float16, 3e-3)):
        def run(f, m):
            leaves = f.requires_grad_(), m.requires_grad_()
            out = function(*leaves)
            return out, *torch.autograd.grad(out.float().square().mean(), leaves, allow_unused=True)
        got = run(f.to(dtype).detach(), m.to(dtype).detach())
        with ops.backend("reference"):
            want = run(f.to(dtype).double().detach(), m.to(dtype).double().detach())
        for a, b in zip(got, want):
            assert b is None or (a - b).norm() <= tolerance * b.norm(), (name, dtype, float((a - b).norm() / b.norm()))
x = torch.rand(1, 1, 9, 21, 35, requires_grad=True)
got = ops.mind_ssc(x)
with ops.backend("reference"):
    want = ops.mind_ssc(x.detach().double().requires_grad_())
assert (got - want).norm() <= 3e-6 * want.norm(), "mind_ssc"
print(ops.native.extension().instruction_set)
"""


@pytest.mark.parametrize("instruction_set", ops.native.extension().supported_instruction_sets())
def test_instruction_sets_agree(instruction_set):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"REGKIT_INSTRUCTION_SET": instruction_set, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == instruction_set


def test_opcheck():
    for dims in (2, 3):
        fixed, moving, keypoints, _ = features(dims)
        points = keypoints.long()
        for metric, pair in ((0, (fixed, moving)), (4 - dims, (fixed.clone().requires_grad_(), moving.clone().requires_grad_()))):
            torch.library.opcheck(torch.ops.regkit.correlate_keypoints.default, (*pair, points, points, 1, 1, 1, 1, metric))
        grad = torch.ones(2, 7, 3**dims)
        torch.library.opcheck(
            torch.ops.regkit.correlate_keypoints_backward.default, (grad, fixed, moving, points, points, 1, 1, 1, 1, 2, True, False)
        )


def test_compiles_whole():
    fixed, moving, keypoints, _ = features(2)

    def loss(f, m):
        return (ops.correlate_keypoints(f * 2, m, keypoints, search_radius=2) * -0.1).softmax(2).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for name, g, w in zip(("fixed", "moving"), gradients(compiled, fixed, moving), gradients(loss, fixed, moving)):
        assert_close(f"gradient by {name}", g, w, 1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": torch.zeros(2, 7, 2)}, "keypoints must be"),
        ({"center": torch.zeros(2, 6, 3)}, "number of positions"),
        ({"moving_features": torch.zeros(2, 4, 5, 5, 5)}, "batch and channels"),
        ({"moving_features": torch.zeros(2, 5, 5, 0, 5)}, "at least one voxel"),
        ({"moving_features": torch.zeros(2, 5, 5, 5)}, "3 spatial axes"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"search_radius": -1}, "search_radius must be at least 0"),
        ({"metric": "ncc"}, "metric must be one of ssd, dot, cosine"),
    ],
)
def test_errors_name_the_argument(change, message):
    fixed, moving, keypoints, _ = features(3)
    arguments = {"fixed_features": fixed, "moving_features": moving, "keypoints": keypoints, "search_radius": 1} | change
    with pytest.raises(ValueError, match=message):
        ops.correlate_keypoints(**arguments)


def test_integer_features_are_refused():
    fixed, moving, keypoints, _ = features(3)
    with pytest.raises(TypeError, match="fixed_features must be floating point"):
        ops.correlate_keypoints(fixed.long(), moving, keypoints, search_radius=1)
