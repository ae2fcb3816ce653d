"""CUDA kernels on a search cube follow the reference, forward: keypoints' similarities, their soft-min, their best and their embedding."""

import math

import pytest
import torch

from regkit import ops
from regkit.ops import search_cuda
from tests.ops.compare import assert_close
from tests.ops.test_displacement_search import METRICS, SEARCHES, features, options

TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def both(function, device, *tensors):
    """function's result by the kernels, and by the reference in float64."""
    with ops.backend("cuda"):
        got = function(*(t.to(device) for t in tensors)).cpu()
    with ops.backend("reference"):
        return got, function(*(t.double() if t.is_floating_point() else t for t in tensors))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("search", SEARCHES, ids=str)
@pytest.mark.parametrize("dims", [2, 3])
def test_map_and_soft_min(dims, search, metric, device):
    """Runs of three displacements, of which 2 radius + 1 need not be a multiple; patches on the lattice of the search and off it."""
    chosen = options(search, metric)
    for function in (
        lambda f, m, x, y: ops.correlate_keypoints(f, m, x, center=y, **chosen),
        lambda f, m, x, y: ops.expected_displacement(f, m, x, center=y, sharpness=0.7, **chosen),
    ):
        got, want = both(function, device, *features(dims, points=3, dtype=torch.float32))
        assert_close("value", got, want, 2e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("dims", "search", "columns"), [(2, (4, 1, 0, 1), 5), (3, (2, 2, 1, 1), 64), (3, (1, 1, 0, 1), 70)], ids=str)
def test_embedding(dims, search, columns, metric, device):
    """More keypoints than a block's 32; columns for a warp's one product and for four, not a multiple of theirs."""
    basis = torch.randn((2 * search[0] + 1) ** dims, columns, generator=torch.Generator().manual_seed(3))
    inputs = features(dims, points=19, dtype=torch.float32)
    got, want = both(lambda f, m, x, y, b: ops.embed_displacements(f, m, x, b, center=y, **options(search, metric)), device, *inputs, basis)
    assert_close("embedding", got, want, 2e-5)


def test_embedding_in_shares(device, monkeypatch):
    """Shares of the cube: one a block of displacements, so that the last has less to do."""
    basis = torch.randn(7**3, 9, generator=torch.Generator().manual_seed(3))
    inputs = features(3, points=2, dtype=torch.float32)

    def function(f, m, x, y, b):
        return ops.embed_displacements(f, m, x, b, center=y, search_radius=3)

    _, want = both(function, device, *inputs, basis)
    for most in (1, 4, 6):
        monkeypatch.setattr(search_cuda, "MOST_SHARES", most)
        got, _ = both(function, device, *inputs, basis)
        assert_close(f"{most} shares", got, want, 2e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("search", SEARCHES, ids=str)
@pytest.mark.parametrize("dims", [2, 3])
def test_best(dims, search, metric, device):
    """Features of few values, so that many displacements are equally good: the shortest counts, and of those the first."""
    fixed, moving, keypoints, center = features(dims, points=3)
    few = (fixed.round().clamp(0, 1).float(), moving.round().clamp(0, 1).float())
    got, want = both(
        lambda f, m, x, y: ops.best_displacement(f, m, x, center=y, **options(search, metric)), device, *few, keypoints, center
    )
    if metric == "cosine":  # divisions round otherwise in float64
        with ops.backend("cpp"):
            want = ops.best_displacement(*few, keypoints, center=center, **options(search, metric))
        assert (got == want).double().mean() > 0.8
    else:
        assert torch.equal(got.double(), want.double())


def test_not_a_number(device):
    fixed, moving, keypoints, _ = features(3, points=4, dtype=torch.float32)
    keypoints = keypoints.clamp(3, 7)
    moving[0, :, 5, 5, 5] = math.nan
    got, want = both(lambda f, m, x: ops.best_displacement(f, m, x, search_radius=1), device, fixed, moving, keypoints)
    assert torch.equal(got.isnan(), want.isnan())
    got, want = both(lambda f, m, x: ops.expected_displacement(f, m, x, search_radius=1, sharpness=1.0), device, fixed, moving, keypoints)
    assert torch.equal(got.isnan(), want.isnan())
    moving[0, :, 5, 5, 5] = math.inf  # a similarity of no weight
    got, want = both(lambda f, m, x: ops.expected_displacement(f, m, x, search_radius=1, sharpness=1.0), device, fixed, moving, keypoints)
    assert_close("infinity", got, want, 2e-5)


def test_infinite_similarities_in_an_embedding(device):
    """The tensor cores' split has no rest of an infinity."""
    fixed, moving, keypoints, _ = features(3, points=4, dtype=torch.float32)
    moving[0, 0, 5, 5, 5] = math.inf
    basis = 1 + torch.rand(27, 6, generator=torch.Generator().manual_seed(3))
    got, want = both(
        lambda f, m, x, b: ops.embed_displacements(f, m, x, b, search_radius=1), device, fixed, moving, keypoints.clamp(3, 7), basis
    )
    assert torch.equal(got.isinf(), want.isinf())
    assert not got.isnan().any()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_dtypes(dtype, device):
    inputs = features(3, channels=6, points=3, dtype=dtype)[:2]
    positions = features(3, points=3)[2:]
    got, want = both(lambda f, m, x, y: ops.correlate_keypoints(f, m, x, center=y, search_radius=2), device, *inputs, *positions)
    assert got.dtype == dtype
    assert_close("map", got, want, TOLERANCE[dtype])
    mixed = inputs[0], inputs[1].float()
    got, want = both(lambda f, m, x, y: ops.correlate_keypoints(f, m, x, center=y, search_radius=2), device, *mixed, *positions)
    assert got.dtype == dtype
    assert_close("map of two dtypes", got, want, TOLERANCE[dtype])


def test_no_keypoints(device):
    fixed, moving, _, _ = features(3, dtype=torch.float32)
    none = torch.zeros(2, 0, 3)
    got, want = both(lambda f, m, x: ops.correlate_keypoints(f, m, x, search_radius=1), device, fixed, moving, none)
    assert got.shape == want.shape
    got, want = both(lambda f, m, x: ops.embed_displacements(f, m, x, m.new_ones(27, 5), search_radius=1), device, fixed, moving, none)
    assert got.shape == want.shape


def test_what_is_left_to_triton():
    """float64, patches beyond shared memory, features without channels."""
    fits, embeds = search_cuda.serves("search_most_patch"), search_cuda.serves("search_most_embedded_patch", 4)

    class Limits:
        search_most_patch, search_most_embedded_patch = 12288, 1280

    def arguments(channels=12, dtype=torch.float32, patch_radius=1, basis=()):
        f = torch.zeros(1, channels, 3, 3, 3, dtype=dtype)
        return f, f, None, None, *basis, 2, 1, patch_radius, 1, 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_cuda.cuda, "extension", lambda: Limits)
        assert fits(*arguments())
        assert not fits(*arguments(dtype=torch.float64))
        assert not fits(*arguments(channels=0))
        assert not fits(*arguments(channels=100, patch_radius=2))
        assert embeds(*arguments(basis=(torch.zeros(1),)))
        assert not embeds(*arguments(basis=(torch.zeros(1, dtype=torch.float64),)))
        assert not embeds(*arguments(patch_radius=2, basis=(torch.zeros(1),)))


@pytest.mark.parametrize("dims", [2, 3])
def test_no_barrier_is_missing(dims, device, monkeypatch):
    if device == "cuda":
        pytest.skip("a GPU has an order of its own; compute-sanitizer's racecheck is for that (make gpu-sanitize)")
    inputs = features(dims, points=3, dtype=torch.float32)
    basis = torch.randn(5**dims, 9, generator=torch.Generator().manual_seed(3))
    results = []
    for order in ("forward", "backward", "shuffled"):
        monkeypatch.setenv("REGKIT_EMULATED_ORDER", order)
        with ops.backend("cuda"):
            results.append(
                [
                    function(*inputs[:3], **more, search_radius=2, patch_radius=1, metric="cosine")
                    for function, more in (
                        (ops.correlate_keypoints, {}),
                        (ops.expected_displacement, {"sharpness": 3.0}),
                        (ops.best_displacement, {}),
                        (ops.embed_displacements, {"basis": basis}),
                    )
                ]
            )
    for result in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(result, results[0]))
