"""The search family in Triton, where tests/ops/cases.py does not reach: metrics, strides, many channels, several chunks, extremes.

Without a GPU in Triton's interpreter, slowly: few keypoints on small images.
"""

import pytest
import torch

from regkit import ops
from regkit.ops.backends import interpreted
from tests.ops.cases import assert_same, randn, reference, value_and_gradients

pytest.importorskip("triton", reason="Triton is not installed")

DEVICE = "cpu" if interpreted() else "cuda"
pytestmark = [] if interpreted() else [pytest.mark.gpu]
METRICS = ("ssd", "dot", "cosine")
# search_radius, stride, patch_radius, patch_stride: patch samples on the lattice of displacements, between its points, and both
SEARCHES = [(0, 3, 1, 1), (1, 1, 1, 1), (2, 2, 1, 1), (1, 3, 1, 2), (1, 2, 2, 3)]


def case(function: str, search, metric: str, dims: int = 2, channels: int = 5, **more):
    """function of features, positions in and around them; and features of two sizes."""
    fixed, moving = (randn(1, channels, *shape[:dims], seed=seed).to(DEVICE) for seed, shape in enumerate(((5, 6, 7), (6, 5, 8))))
    keypoints, center = (4 * randn(1, 3, dims, seed=seed).to(DEVICE) + 3 for seed in (2, 3))
    options = dict(zip(("search_radius", "stride", "patch_radius", "patch_stride"), search)) | {"metric": metric, "center": center} | more
    return lambda a, b, *rest: getattr(ops, function)(a, b, keypoints, *rest, **options), (fixed, moving)


def assert_like_reference(function, tensors, tolerance: float = 1e-11) -> None:
    want = reference(function, tensors)
    with ops.backend("triton"):
        assert_same("search", value_and_gradients(function, tensors), want, tolerance)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_map_and_gradients(search, metric):
    assert_like_reference(*case("correlate_keypoints", search, metric))


def test_patches_in_three_dimensions():
    assert_like_reference(*case("correlate_keypoints", (1, 1, 1, 1), "cosine", dims=3))


@pytest.mark.parametrize("metric", METRICS)
def test_expected_displacement(metric):
    assert_like_reference(*case("expected_displacement", (2, 1, 1, 1), metric, sharpness=0.7))


@pytest.mark.parametrize("columns", [1, 70])
@pytest.mark.parametrize("metric", METRICS)
def test_embedding(metric, columns):
    function, tensors = case("embed_displacements", (1, 1, 1, 1), metric)
    assert_like_reference(function, (*tensors, randn(9, columns, seed=4).to(DEVICE)))


@pytest.mark.parametrize(("function", "more"), [("correlate_keypoints", {}), ("expected_displacement", {"sharpness": 0.3})])
def test_more_channels_than_a_program_holds(function, more):
    assert_like_reference(*case(function, (1, 1, 0, 1), "cosine", channels=70, **more))


def test_more_channels_than_a_program_holds_densely():
    assert_like_reference(lambda a, b: ops.correlate_dense(a, b, radius=1), [randn(1, 70, 3, 9, seed=s).to(DEVICE) for s in (0, 1)])


@pytest.mark.parametrize("deterministic", [False, True])
def test_backward_in_several_chunks(monkeypatch, deterministic):
    from regkit.kernels import correlate_gradient

    monkeypatch.setattr(correlate_gradient, "CHUNK", 2 * 25)  # two of the three keypoints
    torch.use_deterministic_algorithms(deterministic)
    try:
        for metric in ("ssd", "cosine"):
            assert_like_reference(*case("expected_displacement", (2, 1, 0, 1), metric, sharpness=0.7), 1e-9 if deterministic else 1e-11)
    finally:
        torch.use_deterministic_algorithms(False)


def test_fixed_point_sums_are_close():
    """Of all numbers that are added in deterministic mode, the largest sets the step."""
    function, tensors = case("correlate_keypoints", (2, 1, 1, 1), "ssd")
    torch.use_deterministic_algorithms(True)
    try:
        assert_like_reference(function, (1e3 * tensors[0], tensors[1]), 1e-8)
    finally:
        torch.use_deterministic_algorithms(False)


def by_triton(function, *tensors):
    with ops.backend("triton"):
        return function(*tensors).cpu()


def test_best_displacement():
    for metric in METRICS:
        fixed, moving = (randn(1, 5, 11, 12, seed=seed).to(DEVICE) for seed in (0, 1))
        keypoints = torch.tensor([[[5, 5], [4, 7], [6, 6]]], device=DEVICE)  # no two samples are one border voxel, so there are no ties
        with ops.backend("reference"):
            want = ops.best_displacement(fixed, moving, keypoints, search_radius=3, metric=metric).cpu()
        assert torch.equal(
            by_triton(lambda a, b: ops.best_displacement(a, b, keypoints, search_radius=3, metric=metric), fixed, moving), want
        )


def test_of_equally_good_displacements_the_shortest_is_taken():
    fixed, moving = torch.zeros(1, 1, 9, 9, device=DEVICE), torch.ones(1, 1, 9, 9, device=DEVICE)
    for i, j in ((1, 1), (2, 5), (5, 6), (6, 5)):  # at (-3, -3), (-2, 1), (1, 2) and (2, 1) from the keypoint
        moving[0, 0, i, j] = 0
    keypoints = torch.tensor([[[4, 4]]], device=DEVICE)
    best = by_triton(lambda a, b: ops.best_displacement(a, b, keypoints, search_radius=3), fixed, moving)
    assert best.tolist() == [[[-2, 1]]]
    assert not by_triton(lambda a, b: ops.best_displacement(a, a, keypoints, search_radius=3), fixed, moving).any()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_nan_in_the_cube_makes_the_displacement_nan():
    fixed, moving = (randn(1, 5, 9, 9, seed=seed).to(DEVICE) for seed in (0, 1))
    moving[0, 1, 6, 6] = float("nan")
    keypoints = torch.tensor([[[5, 5], [1, 1]]], device=DEVICE)
    for function in (ops.best_displacement, lambda *a, **o: ops.expected_displacement(*a, sharpness=1.0, **o)):
        got = by_triton(lambda a, b: function(a, b, keypoints, search_radius=2), fixed, moving)  # noqa: B023
        assert got.isnan().all(2).tolist() == [[True, False]] and got[0, 1].isfinite().all()


def test_large_scores_do_not_overflow():
    function, (fixed, moving) = case("expected_displacement", (1, 1, 0, 1), "dot", sharpness=100.0)
    tensors = fixed.float(), 300 * moving.float()
    with ops.backend("triton"):
        assert all(x.isfinite().all() for x in value_and_gradients(function, tensors))
