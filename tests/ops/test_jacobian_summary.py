"""jacobian_summary: numpy's figures of the map, masks, NaN, odd shapes, every backend, messages."""

import numpy as np
import pytest
import torch

from regkit import ops
from regkit.ops.backends import interpreted
from tests.ops.cases import SHAPES, randn
from tests.ops.compare import assert_close

ODD_SHAPES = [(1, 1), (1, 5), (6, 3), (5, 64), (1, 1, 1), (1, 6, 7), (5, 1, 3), (4, 5, 6), (5, 5, 5), (7, 6, 33), (5, 6, 100)]
BACKENDS = ["reference", "cpp"] + ["triton"] * (interpreted() and "triton" in ops.available("jacobian_summary"))


def deviation(values):
    return values.std() if values.size else float("nan")


def by_numpy(u, mask=None):
    """The definitions, one volume after the other."""
    rows = []
    for b, determinant in enumerate(ops.jacobian_determinant(u)[:, 0].double().numpy()):
        chosen = np.ones(determinant.shape, bool) if mask is None else mask[b, 0].numpy() != 0
        inner = (slice(2, -2),) * determinant.ndim
        values, shifted = determinant[chosen], determinant[inner][chosen[inner]]
        some = values.size > 0
        rows.append(
            [
                (values <= 0).mean() if some else float("nan"),
                *((values.min(), values.max(), values.mean()) if some else [float("nan")] * 3),
                deviation(np.log(values[values > 0].clip(1e-9))),
                deviation(np.log((shifted + 3).clip(1e-9, 1e9))),
            ]
        )
    return torch.tensor(rows, dtype=torch.float64)


def summary(u, mask=None):
    return torch.stack(ops.jacobian_summary(u, mask=mask), 1)


def rough(spatial, dtype=torch.float64):
    """A displacement with some folds."""
    return (0.4 * randn(2, len(spatial), *spatial)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("spatial", [*SHAPES.values(), *ODD_SHAPES], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_figures_are_numpys(backend, spatial, masked, dtype):
    u = rough(spatial, dtype)
    mask = torch.rand(2, 1, *spatial, generator=torch.Generator().manual_seed(1)) > 0.4 if masked else None
    want = by_numpy(u, mask)
    with ops.backend(backend):
        got = summary(u, mask)
    assert got.dtype == torch.float64 and got.shape == (2, 6)
    assert torch.equal(got.isnan(), want.isnan())
    assert (got - want).nan_to_num().abs().max() <= (1e-12 if dtype == torch.float64 else 1e-5)
    if max(spatial) > 12 and min(spatial) > 4:
        assert (got[:, 0] > 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_small_spread_around_a_large_mean(backend):
    """Sums of squares would lose it: the determinant is 1.5^3 to 1 in a million."""
    x = torch.stack(torch.meshgrid(*(torch.arange(24.0, dtype=torch.float64),) * 3, indexing="ij"))[None]
    u = 0.5 * x + 1e-6 * randn(1, 3, 24, 24, 24)
    with ops.backend(backend):
        found = ops.jacobian_summary(u)
    assert found.sdlogj.item() == pytest.approx(by_numpy(u)[0, 4].item(), rel=1e-6)
    assert found.det_mean.item() == pytest.approx(1.5**3, rel=1e-6) and found.folds == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_of_any_type_and_empty_ones(backend):
    u, inside = rough((6, 7, 9)), torch.zeros(2, 1, 6, 7, 9)
    inside[0, :, 2:5] = 256  # 0 in a byte
    with ops.backend(backend):
        whole, none = summary(u, inside.to(torch.int16))
    assert none.isnan().all() and not whole.isnan().any()
    assert_close("figures", whole, by_numpy(u, inside)[0], 1e-12)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_infinity(backend):
    u = rough((6, 7, 9))
    u[0, 0, 3, 3, 3] = float("nan")
    u[1, 0, 3, 3, 3] = float("inf")
    want, outside = by_numpy(u), torch.ones(2, 1, 6, 7, 9)
    outside[:, :, 2:5, 2:5, 2:5] = 0
    with ops.backend(backend):
        got, masked = summary(u), summary(u, outside)
    assert want[0, 1:4].isnan().all() and want[0, 5].isnan() and not want[0, 4].isnan()
    assert torch.equal(got.isnan(), want.isnan()) and torch.equal(got.isinf(), want.isinf())
    assert (got - want).nan_to_num(posinf=0, neginf=0).abs().max() <= 1e-12
    assert not masked.isnan().any()


def test_result_does_not_depend_on_the_threads():
    u, before = rough((37, 41, 50), torch.float32), torch.get_num_threads()
    try:
        results = [torch.set_num_threads(threads) or summary(u) for threads in (1, 2, 5)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_strides_and_nothing(backend):
    u = rough((6, 7, 9))
    with ops.backend(backend):
        assert torch.equal(summary(u.half()), summary(u.half().float()))
        assert torch.equal(summary(u.transpose(1, -1).contiguous().transpose(1, -1)), summary(u))
        assert summary(u[:0]).shape == (0, 6)
        assert summary(u[:, :, :0]).isnan().all()


def test_not_differentiable_and_no_map_is_kept():
    found = ops.jacobian_summary(rough((6, 7)).requires_grad_())
    assert not any(value.requires_grad for value in found)
    compiled = torch.compile(lambda u: ops.jacobian_summary(u).folds, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(rough((6, 7))), found.folds)


def test_messages():
    u = torch.zeros(1, 2, 4, 5)
    with pytest.raises(ValueError, match=r"mask must be \(B, 1, \*spatial\) = \(1, 1, 4, 5\) for this u, but came as \(1, 4, 5\)"):
        ops.jacobian_summary(u, mask=torch.ones(1, 4, 5))
    with pytest.raises(ValueError, match=r"u must be \(B, D, \*spatial\)"):
        ops.jacobian_summary(u[0])
