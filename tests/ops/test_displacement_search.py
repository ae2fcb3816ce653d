"""expected_displacement, best_displacement and embed_displacements: against the map of correlate_keypoints, and what is theirs alone."""

import pytest
import torch

from regkit import ops
from regkit.reference.correlate import lattice
from tests.ops.compare import assert_close

METRICS = ("ssd", "dot", "cosine")
# search_radius, stride, patch_radius, patch_stride: patch samples on the lattice of displacements, between its points, and both
SEARCHES = [(0, 1, 0, 1), (2, 1, 0, 1), (4, 1, 0, 1), (1, 1, 1, 1), (3, 1, 2, 1), (2, 2, 1, 1), (2, 3, 1, 2), (1, 4, 2, 1)]


implementations = pytest.mark.parametrize("implementation", ("reference", "cpp"))


def options(search, metric="ssd", **more):
    return dict(zip(("search_radius", "stride", "patch_radius", "patch_stride"), search)) | {"metric": metric} | more


def features(dims: int, channels: int = 5, points: int = 7, dtype=torch.float64):
    """Features of two odd shapes and positions in and around them."""
    torch.manual_seed(dims)
    fixed = torch.randn(2, channels, *(13, 11, 17)[:dims]).to(dtype)
    moving = torch.randn(2, channels, *(12, 14, 19)[:dims]).to(dtype)
    return fixed, moving, torch.rand(2, points, dims) * 19 - 3, torch.rand(2, points, dims) * 24 - 4


def displacements(search, dims: int) -> torch.Tensor:
    return lattice(search[0], search[1], dims, torch.device("cpu"))


def nearest(positions: torch.Tensor) -> torch.Tensor:
    return (positions + 0.5).floor()


def gradients(function, *inputs):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(out.dtype)
    return torch.autograd.grad(out, leaves, weight)


def from_map(what: str, search, metric, keypoints, center, sharpness=0.7):
    """The same by torch from the reference's map."""
    d = displacements(search, keypoints.shape[2]).double()

    def function(fixed, moving, *basis):
        with ops.backend("reference"):
            scores = ops.correlate_keypoints(fixed, moving, keypoints, center=center, **options(search, metric))
        if what == "embed":
            return scores @ basis[0]
        scores = -scores if metric == "ssd" else scores
        shift = 0 if center is None else nearest(center) - nearest(keypoints)
        return (d[scores.argmax(2)] if what == "best" else (sharpness * scores).softmax(2) @ d) + shift

    return function


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dims", (2, 3))
@implementations
def test_expected_is_the_soft_min_of_the_map(implementation, dims, metric):
    fixed, moving, keypoints, center = features(dims)
    for search in SEARCHES:
        for at in (None, center):

            def expected(f, m):
                return ops.expected_displacement(f, m, keypoints, center=at, sharpness=0.7, **options(search, metric))  # noqa: B023

            of_map = from_map("expected", search, metric, keypoints, at)
            wanted = of_map(fixed, moving), *gradients(of_map, fixed, moving)
            with ops.backend(implementation):
                got = expected(fixed, moving), *gradients(expected, fixed, moving)
            for name, g, w in zip(("value", "gradient by fixed", "gradient by moving"), got, wanted):
                # A cube of one displacement has no gradient, which is then what rounding leaves of 0.
                assert (g - w).norm() <= 1e-11 * (w.norm() + 1), f"{metric} {search}, {name}: {g - w}"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dims", (2, 3))
@implementations
def test_best_is_the_extreme_of_the_map(implementation, dims, metric):
    fixed, moving, keypoints, center = features(dims)
    inside = (keypoints * 0.3 + 5, center * 0.2 + 5)  # no two samples are one border voxel, so there are no ties
    for search in SEARCHES[:4]:
        for at in (None, inside[1]):
            with ops.backend(implementation):
                got = ops.best_displacement(fixed, moving, inside[0], center=at, **options(search, metric))
            assert torch.equal(got, from_map("best", search, metric, inside[0], at)(fixed, moving))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dims", (2, 3))
@implementations
def test_embedding_is_the_map_times_the_basis(implementation, dims, metric):
    fixed, moving, keypoints, center = features(dims, points=19)
    for search, columns in zip(SEARCHES, (1, 3, 70, 16, 33, 64, 5, 0)):
        basis = torch.randn(len(displacements(search, dims)), columns, dtype=torch.float64)

        def embed(f, m, e):
            return ops.embed_displacements(f, m, keypoints, e, center=center, **options(search, metric))  # noqa: B023

        of_map = from_map("embed", search, metric, keypoints, center)
        wanted = of_map(fixed, moving, basis), *gradients(of_map, fixed, moving, basis)
        with ops.backend(implementation):
            got = embed(fixed, moving, basis), *gradients(embed, fixed, moving, basis)
        for name, g, w in zip(("value", "gradient by fixed", "gradient by moving", "gradient by basis"), got, wanted):
            assert_close(f"{metric} {search} {columns} columns, {name}", g, w, 1e-12)


@implementations
def test_a_shifted_image_is_found_at_its_shift(implementation):
    torch.manual_seed(0)
    moving = torch.rand(1, 1, 30, 31, 32)
    fixed = moving.roll((-2, 1, 3), (2, 3, 4))  # fixed(x) = moving(x + (2, -1, -3))
    keypoints = torch.tensor([[[15, 15, 15], [10, 20, 18]]])
    search = {"search_radius": 4, "patch_radius": 1}
    with ops.backend(implementation):
        for center in (None, keypoints + torch.tensor([3, -2, 1])):
            best = ops.best_displacement(fixed, moving, keypoints, center=center, **search)
            assert best.tolist() == [[[2, -1, -3]] * 2]
            assert_close(
                "expected", ops.expected_displacement(fixed, moving, keypoints, center=center, sharpness=2e3, **search), best, 1e-4
            )


@implementations
def test_of_equally_good_displacements_the_shortest_is_taken(implementation):
    constant, keypoints = torch.ones(1, 2, 9, 9), torch.tensor([[[4, 4], [0, 8]]])
    with ops.backend(implementation):
        for metric in METRICS:
            assert not ops.best_displacement(constant, constant, keypoints, search_radius=3, metric=metric).any()
        fixed, moving = torch.zeros(1, 1, 9, 9), torch.ones(1, 1, 9, 9)
        for i, j in ((1, 1), (2, 5), (5, 6), (6, 5)):  # at (-3, -3), (-2, 1), (1, 2) and (2, 1) from the keypoint
            moving[0, 0, i, j] = 0
        assert ops.best_displacement(fixed, moving, keypoints[:, :1], search_radius=3).tolist() == [[[-2, 1]]]


@implementations
def test_a_nan_in_the_cube_makes_the_displacement_nan(implementation):
    fixed, moving, *_ = features(3)
    moving[0, 1, 6, 6, 6] = float("nan")
    keypoints = torch.tensor([[[5, 5, 5], [1, 1, 1]]] * 2)
    with ops.backend(implementation):
        for displacement in (
            ops.best_displacement(fixed, moving, keypoints, search_radius=2),
            ops.expected_displacement(fixed, moving, keypoints, search_radius=2, sharpness=1.0),
        ):
            assert displacement.isnan().flatten(2).all(2).tolist() == [[True, False], [False, False]]
            assert displacement[0, 1].isfinite().all()


@implementations
def test_large_scores_do_not_overflow(implementation):
    fixed, moving, keypoints, _ = features(2, dtype=torch.float32)
    with ops.backend(implementation):
        for metric in METRICS[:2]:
            search = options((2, 1, 0, 1), metric)
            leaves = fixed.clone().requires_grad_(), (300 * moving).requires_grad_()
            expected = ops.expected_displacement(*leaves, keypoints, sharpness=100.0, **search)
            # Keypoints beyond the border see ties, which share the weight.
            assert expected.isfinite().all()
            assert all(g.isfinite().all() for g in torch.autograd.grad(expected.sum(), leaves))
            assert (expected - ops.best_displacement(*leaves, keypoints, **search)).norm(dim=2).median() < 1e-3


@implementations
def test_sharpness_zero_gives_the_centre(implementation):
    fixed, moving, keypoints, center = features(3)
    with ops.backend(implementation):
        got = ops.expected_displacement(fixed, moving, keypoints, search_radius=2, sharpness=0.0, center=center)
    torch.testing.assert_close(got, (nearest(center) - nearest(keypoints)).double(), rtol=0, atol=1e-12)


def test_results_of_half_precision_features_are_float32():
    fixed, moving, keypoints, _ = features(3, dtype=torch.float16)
    basis = torch.randn(125, 8)
    search = {"search_radius": 2}
    assert ops.expected_displacement(fixed, moving, keypoints, sharpness=1.0, **search).dtype == torch.float32
    assert ops.best_displacement(fixed, moving, keypoints, **search).dtype == torch.float32
    embedded = ops.embed_displacements(fixed, moving, keypoints, basis, **search)
    assert embedded.dtype == torch.float32
    assert ops.embed_displacements(fixed, moving, keypoints, basis.half(), **search).dtype == torch.float16
    assert_close("embedding", embedded, ops.correlate_keypoints(fixed.float(), moving.float(), keypoints, **search) @ basis, 2e-6)


def test_no_keypoints_and_no_channels():
    fixed, moving, keypoints, _ = features(2)
    basis = torch.ones(9, 4, dtype=torch.float64)
    for f, m, k in ((fixed, moving, keypoints[:, :0]), (fixed[:0], moving[:0], keypoints[:0]), (fixed[:, :0], moving[:, :0], keypoints)):
        for function in (
            lambda f, m: ops.expected_displacement(f, m, k, search_radius=1, sharpness=1.0),  # noqa: B023
            lambda f, m: ops.embed_displacements(f, m, k, basis, search_radius=1),  # noqa: B023
        ):
            out = function(f, m)
            assert out.shape[:2] == k.shape[:2] and not (out.abs() > 1e-12).any()
            assert not any(g.any() for g in gradients(function, f, m))
        assert ops.best_displacement(f, m, k, search_radius=1).shape == k.shape


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"keypoints": torch.zeros(2, 7, 2)}, ValueError, "keypoints must be"),
        ({"center": torch.zeros(2, 6, 3)}, ValueError, "number of positions"),
        ({"metric": "ncc"}, ValueError, "metric must be one of ssd, dot, cosine"),
        ({"search_radius": -1}, ValueError, "search_radius must be at least 0"),
        ({"sharpness": float("inf")}, ValueError, "sharpness must be a finite number"),
        ({"sharpness": -1.0}, ValueError, "sharpness must be a finite number of at least 0, but came as -1.0"),
        ({"basis": torch.zeros(26, 4)}, ValueError, r"L = \(2 search_radius \+ 1\)\^D = 27, but came as \(26, 4\)"),
        ({"basis": torch.zeros(27, 4, dtype=torch.int32)}, TypeError, "basis must be floating point"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    fixed, moving, keypoints, _ = features(3)
    common = {"fixed_features": fixed, "moving_features": moving, "keypoints": keypoints, "search_radius": 1}
    with pytest.raises(error, match=message):
        if "basis" in change:
            ops.embed_displacements(**common | change)
        else:
            ops.expected_displacement(**common | {"sharpness": 1.0} | change)
