"""invert: that it undoes, where it stops, border, shapes, dtypes, NaN, messages."""

import pytest
import torch

from regkit import ops
from regkit.ops.backends import interpreted
from tests.ops.cases import SHAPES, displacement, randn
from tests.ops.compare import assert_close

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
ODD_SHAPES = [(1, 1), (1, 5), (6, 1), (2, 2), (3, 64), (1, 1, 1), (1, 6, 7), (5, 1, 3), (4, 3, 1), (2, 2, 2), (3, 2, 33)]
BACKENDS = [name for name in ops.available("invert") if name != "reference" and (name != "triton" or interpreted())]


def waves(spatial: tuple[int, ...], amplitude: float = 1.0, length: float = 20.0) -> torch.Tensor:
    """A smooth displacement whose derivatives stay below 2 pi amplitude / length."""
    index = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in spatial], indexing="ij")
    return torch.stack([amplitude * torch.sin(2 * torch.pi * x / length + d) for d, x in enumerate(index)])[None]


def reference(u, **options):
    with ops.backend("reference"):
        return ops.invert(u, **options)


@pytest.mark.parametrize("spatial", [(40, 44), (20, 24, 28)], ids=str)
def test_undoes(spatial):
    u = waves(spatial)
    v = ops.invert(u, iterations=50, tolerance=1e-9)
    assert (v + ops.warp(u, v, padding="border")).abs().max() < 1e-8
    assert ops.compose(u, v).abs().max() < 1e-8
    assert (v + u).abs().max() > 0.1  # more than turning its sign


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("dims", [2, 3])
def test_follows_reference(backend, dims, dtype):
    u = displacement(SHAPES[dims], dtype=dtype, size=0.3)
    with ops.backend(backend):
        got = ops.invert(u, iterations=4, tolerance=0.0)
    assert got.dtype == dtype
    assert_close("inverse", got, reference(u.double(), iterations=4, tolerance=0.0), TOLERANCE[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spatial", ODD_SHAPES, ids=str)
def test_any_shape(backend, spatial):
    u = displacement(spatial, size=5.0)
    with ops.backend(backend):
        got = ops.invert(u, iterations=3)
    assert_close("inverse", got, reference(u, iterations=3), 1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_voxel_stops_by_itself(backend):
    """A settled voxel stays as it is while those beside it go on."""
    u = waves((30, 40), amplitude=2.5)
    with ops.backend(backend):
        got = {rounds: ops.invert(u, iterations=rounds, tolerance=0.02) for rounds in (3, 4, 30)}
    for rounds, v in got.items():
        assert_close(f"{rounds} rounds", v, reference(u, iterations=rounds, tolerance=0.02), 1e-12)
    still = (got[3] == got[4]).all(1)
    assert 0.05 < still.double().mean() < 0.95
    assert torch.equal(got[3].movedim(1, -1)[still], got[30].movedim(1, -1)[still])


def test_no_round_turns_the_sign():
    u = displacement(SHAPES[3])
    assert torch.equal(ops.invert(u, iterations=0), -u)


def test_a_shift_continues_beyond_the_border():
    u = torch.zeros(1, 3, 9, 8, 20)
    u[:, 0], u[:, 2] = 6.0, -3.0
    assert torch.equal(ops.invert(u), -u)


def test_no_gradient():
    u = (0.1 * displacement(SHAPES[2])).requires_grad_()
    assert not ops.invert(u).requires_grad


def test_strides_batches_and_threads():
    u = displacement((7, 9, 41), batch=3, dtype=torch.float32, size=0.5)
    v = ops.invert(u)
    strided = u.transpose(1, -1).contiguous().transpose(1, -1)
    assert torch.equal(ops.invert(strided), v)
    assert all(torch.equal(ops.invert(u[b : b + 1]), v[b : b + 1]) for b in range(3))
    assert ops.invert(u[:0]).shape == (0, 3, 7, 9, 41)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(ops.invert(u), v)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("component", [0, 1])
def test_nan_gives_nan(backend, component):
    u = waves((12, 40))
    u[0, component, 5, 20] = float("nan")
    with ops.backend(backend):
        got = ops.invert(u)
    assert_close("inverse", got, reference(u), 1e-12)
    assert 0 < got.isnan().sum() < 40


def test_messages():
    u = randn(1, 2, 4, 5)
    with pytest.raises(ValueError, match=r"displacement must be \(B, D, \*spatial\)"):
        ops.invert(randn(1, 3, 4, 5))
    with pytest.raises(ValueError, match="iterations must be at least 0, but came as -1"):
        ops.invert(u, iterations=-1)
    with pytest.raises(ValueError, match="tolerance must be a number of voxels from 0 up, but came as nan"):
        ops.invert(u, tolerance=float("nan"))
    with pytest.raises(TypeError, match="floating point"):
        ops.invert(u.int())
