"""correlate_dense: its definition against a direct sum and unfold, borders, messages. What holds for every op: test_every_op.py."""

import pytest
import torch
import torch.nn.functional as F

from regkit import ops
from tests.ops.compare import assert_close


def maps(*spatial: int, channels: int = 3, dtype=torch.float64):
    torch.manual_seed(len(spatial))
    return (torch.randn(2, channels, *spatial, dtype=dtype) for _ in range(2))


@pytest.mark.parametrize("implementation", ["reference", "cpp"])
@pytest.mark.parametrize("metric", ["dot", "ssd"])
@pytest.mark.parametrize(("spatial", "radius", "stride"), [((5, 7), 2, 1), ((4, 6, 5), 1, 2), ((3, 4), 3, 3), ((2, 3, 2), 0, 1)])
def test_is_the_mean_it_says(spatial, radius, stride, metric, implementation):
    a, b = maps(*spatial)
    with ops.backend(implementation):
        got = ops.correlate_dense(a, b, radius=radius, stride=stride, metric=metric)
    offsets = torch.cartesian_prod(*[stride * torch.arange(-radius, radius + 1)] * len(spatial))
    assert got.shape == (2, len(offsets), *spatial)
    for channel, d in enumerate(offsets):
        for x in torch.cartesian_prod(*map(torch.arange, spatial)):
            y = x + d
            inside = all(0 <= v < n for v, n in zip(y.tolist(), spatial))
            f, m = a[(..., *x)], b[(..., *y)] if inside else torch.zeros(2, 3, dtype=torch.float64)
            want = (f * m if metric == "dot" else (f - m).square()).mean(1)
            torch.testing.assert_close(got[(slice(None), channel, *x)], want)


def test_is_the_correlation_of_pyramid_networks():
    """Their usual form in torch: unfold the padded second map, multiply, average over channels."""
    a, b = maps(9, 11, channels=8, dtype=torch.float32)
    windows = F.unfold(b, 9, padding=4).unflatten(1, (8, 81)).unflatten(3, (9, 11))
    assert_close("dot", ops.correlate_dense(a, b, radius=4), (a[:, :, None] * windows).mean(1), 1e-6)


def test_the_cosine_is_the_product_of_normalised_maps():
    a, b = maps(6, 7, channels=5)
    got = ops.correlate_dense(5 * F.normalize(a, dim=1), F.normalize(b, dim=1), radius=1)[:, 4]
    torch.testing.assert_close(got, F.cosine_similarity(a, b, dim=1))


def test_matching_maps_lose_no_precision():
    """Bright features that match: expanding the square would leave rounding noise of 1e6 * 1e-7."""
    a, _ = maps(6, 7, 8, dtype=torch.float32)
    a = 1000 + a
    b = a + 1e-2
    got = ops.correlate_dense(a, b, radius=1, metric="ssd")[:, 13]
    assert_close("ssd", got, (a - b).square().mean(1), 1e-6)


@pytest.mark.parametrize("metric", ["dot", "ssd"])
def test_nan_stays_where_it_is_seen(metric):
    a, b = maps(5, 6, 7)
    a[0, 1, 0, 3, 6], b[1, 2, 4, 0, 2] = float("nan"), float("nan")
    weight = torch.randn(2, 27, 5, 6, 7, dtype=torch.float64)
    found = []
    for implementation in ("cpp", "reference"):
        with ops.backend(implementation):
            leaves = a.clone().requires_grad_(), b.clone().requires_grad_()
            value = ops.correlate_dense(*leaves, radius=1, stride=2, metric=metric)
            found.append((value, *torch.autograd.grad(value, leaves, weight)))
    for name, got, want in zip(("value", "gradient by a", "gradient by b"), *found):
        assert_close(name, got, want, 1e-13)


def test_no_channels_are_alike():
    empty = torch.ones(1, 0, 4, 5)
    assert ops.correlate_dense(empty, empty, radius=1).shape == (1, 9, 4, 5)
    assert not ops.correlate_dense(empty, empty, radius=1).any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"b": torch.zeros(2, 3, 5, 6)}, ValueError, "shapes must agree, but a has"),
        ({"a": torch.zeros(2, 3, 5), "b": torch.zeros(2, 3, 5)}, ValueError, "2 or 3 spatial axes"),
        ({"b": torch.zeros(2, 3, 5, 5, dtype=torch.int32)}, TypeError, "b must be floating point"),
        ({"radius": -1}, ValueError, "radius must be at least 0"),
        ({"stride": 0}, ValueError, "stride must be at least 1"),
        ({"metric": "cosine"}, ValueError, "metric must be one of ssd, dot"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    arguments = {"a": torch.zeros(2, 3, 5, 5), "b": torch.zeros(2, 3, 5, 5), "radius": 1} | change
    with pytest.raises(error, match=message):
        ops.correlate_dense(**arguments)
