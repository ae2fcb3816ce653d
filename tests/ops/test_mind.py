"""mind_ssc: the C++ kernel against the float64 reference, and the reference against ConvexAdam's formula and autograd."""

import pytest
import torch
import torch.nn.functional as F

from regkit import ops
from regkit.ops.backends import interpreted
from regkit.reference import mind
from tests.ops.compare import assert_close

TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-13, torch.float16: 2e-3, torch.bfloat16: 1e-2}
SETTINGS = [(1, 2), (0, 1), (2, 1), (3, 3), (1, 1)]  # radius, dilation


def image(dims: int, dtype=torch.float32, scale: float = 1.0):
    torch.manual_seed(dims)
    x = torch.rand(2, 1, *(13, 21, 35)[-dims:]) * scale
    x[..., :9] *= 1e-3  # almost flat: V at its lower bound
    return x.to(dtype)


def gradient(function, x):
    x = x.detach().clone().requires_grad_()
    out = function(x)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(out)
    return torch.autograd.grad(out, x, weight)[0]


def reference(function, x):
    with ops.backend("reference"):
        return function(x.double())


@pytest.mark.parametrize("dims", (2, 3))
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_values_and_gradients_follow_the_reference(dtype, dims):
    x = image(dims, dtype)
    for radius, dilation in SETTINGS:
        describe = lambda x: ops.mind_ssc(x, radius=radius, dilation=dilation)  # noqa: E731, B023
        got = describe(x)
        assert got.dtype == dtype and got.shape == (2, 12 if dims == 3 else 4, *x.shape[2:])
        assert_close(f"radius {radius} dilation {dilation}", got, reference(describe, x), TOLERANCE[dtype])
        want = reference(lambda x: gradient(describe, x), x)  # noqa: B023
        assert_close(f"gradient, radius {radius} dilation {dilation}", gradient(describe, x), want, 10 * TOLERANCE[dtype])


def test_reference_is_convexadams_formula():
    """One-hot convolutions of the padded image, average pooling of the padded squares: as published, before the last permutation."""
    x = image(3, torch.float64)[:1]
    radius, dilation = 1, 2
    six = torch.tensor([[0, 1, 1], [1, 1, 0], [1, 0, 1], [1, 1, 2], [2, 1, 1], [1, 2, 1]])
    distance = (six[:, None] - six[None]).square().sum(-1)
    first, second = (torch.ones(6, 6).tril(-1).bool() & (distance == 2)).nonzero().T

    def shifted(which):
        kernel = torch.zeros(12, 1, 3, 3, 3, dtype=torch.float64)
        kernel[torch.arange(12), 0, *six[which].T] = 1
        return F.conv3d(F.pad(x, [dilation] * 6, mode="replicate"), kernel, dilation=dilation)

    squares = F.pad((shifted(first) - shifted(second)).square(), [radius] * 6, mode="replicate")
    d = F.avg_pool3d(squares, 2 * radius + 1, stride=1)
    d = d - d.amin(1, keepdim=True)
    variance = d.mean(1, keepdim=True)
    want = torch.exp(-d / variance.clamp(1e-3 * variance.mean(), 1e3 * variance.mean()))
    assert_close("descriptors", reference(ops.mind_ssc, x), want, 1e-13)


@pytest.mark.parametrize("dims", (2, 3))
@pytest.mark.parametrize("backend", ("cpp", "reference"))
def test_gradient_is_that_of_the_forward_formula(backend, dims):
    """Against autograd through the formula with the mean of V detached (gradcheck would differentiate that mean)."""
    x = image(dims, torch.float64)[..., :17]

    def formula(x, radius, dilation):
        q, _, raw, _ = mind._normalised(x[:, 0], radius, dilation)
        mean = raw.mean(tuple(range(1, raw.dim())), keepdim=True).detach()
        return torch.exp(-q / raw.clamp(1e-3 * mean, 1e3 * mean))

    for radius, dilation in SETTINGS:
        with ops.backend(backend):
            got = gradient(lambda x: ops.mind_ssc(x, radius=radius, dilation=dilation), x)
        assert_close(f"radius {radius} dilation {dilation}", got, gradient(lambda x: formula(x, radius, dilation), x), 1e-12)


def test_gradcheck_where_the_bounds_do_not_bind():
    torch.manual_seed(0)
    x = torch.rand(1, 1, 6, 7, dtype=torch.float64, requires_grad=True)
    for backend in ("cpp", "reference"):
        with ops.backend(backend):
            assert torch.autograd.gradcheck(lambda x: ops.mind_ssc(x, radius=1, dilation=1), (x,), eps=1e-7)


def test_contrast_and_brightness_do_not_matter():
    x = image(3, torch.float64)
    assert_close("descriptors", ops.mind_ssc(1000 - 20 * x), ops.mind_ssc(x), 1e-9)


def test_bright_images_lose_no_precision():
    x = image(3) + 1000
    assert_close("descriptors", ops.mind_ssc(x), reference(ops.mind_ssc, x), 1e-5)


def test_a_constant_image_gives_one():
    for backend in ("cpp", "reference"):
        with ops.backend(backend):
            x = torch.full((1, 1, 6, 7, 8), 3.0, requires_grad=True)
            out = ops.mind_ssc(x)
            assert (out == 1).all()
            assert not torch.autograd.grad(out.sum(), x)[0].any()


def test_descriptors_peak_at_one_and_are_positive():
    out = ops.mind_ssc(image(3))
    assert (out.amax(1) == 1).all() and (out >= 0).all()


@pytest.mark.parametrize("shape", [(1, 1, 1, 9, 8), (2, 1, 5, 1, 1), (1, 1, 1, 1, 1), (2, 1, 1, 7), (1, 1, 2, 2), (1, 1, 3, 40, 2)])
def test_singleton_axes(shape):
    torch.manual_seed(0)
    x = torch.rand(shape)
    assert_close("descriptors", ops.mind_ssc(x), reference(ops.mind_ssc, x), 1e-5)
    # One axis alone gives descriptors that do not depend on the image, and gradients that are rounding.
    wanted = reference(lambda x: gradient(ops.mind_ssc, x), x).float()
    torch.testing.assert_close(gradient(ops.mind_ssc, x), wanted, rtol=1e-4, atol=1e-4)


def test_empty():
    for shape in ((0, 1, 4, 5, 6), (2, 1, 0, 5)):
        x = torch.rand(shape)
        assert ops.mind_ssc(x).shape == (shape[0], 12 if len(shape) == 5 else 4, *shape[2:])
        assert reference(ops.mind_ssc, x).shape == ops.mind_ssc(x).shape
        assert gradient(ops.mind_ssc, x).shape == shape


def test_a_nan_spoils_its_image_and_no_other():
    x = image(3)
    x[0, 0, 5, 5, 5] = float("nan")
    assert_close("descriptors", ops.mind_ssc(x), reference(ops.mind_ssc, x), 1e-5)
    assert ops.mind_ssc(x)[0].isnan().all() and ops.mind_ssc(x)[1].isfinite().all()


def test_strided_input():
    x = image(3)
    assert torch.equal(ops.mind_ssc(x.transpose(2, 4)), ops.mind_ssc(x.transpose(2, 4).contiguous()))


def test_results_do_not_depend_on_the_threads():
    x, threads, results = image(3).repeat(1, 1, 4, 3, 1), torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append((ops.mind_ssc(x), gradient(ops.mind_ssc, x)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("dims", (2, 3))
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_any_dtype_and_memory_format(dtype, stored, dims):
    """Of descriptors and of the gradient by them; one gradient is read as it lies, so both formats give the same bits."""
    x, format = image(dims, dtype), torch.channels_last if dims == 2 else torch.channels_last_3d
    for radius in (1, 2):
        planar, last = (ops.mind_ssc(x, radius=radius, dtype=stored, channels_last=flag) for flag in (False, True))
        assert planar.dtype == last.dtype == stored and planar.is_contiguous() and last.is_contiguous(memory_format=format)
        assert torch.equal(planar, last)
        assert_close("descriptors", planar, reference(lambda x: ops.mind_ssc(x, radius=radius), x), TOLERANCE[stored])  # noqa: B023
        with ops.backend("reference"):
            slow = ops.mind_ssc(x, radius=radius, dtype=stored, channels_last=True)
        assert slow.dtype == stored and slow.stride() == last.stride()
        grad = torch.randn(planar.shape).to(stored)
        by_planar, by_last = (torch.ops.regkit.mind_ssc_backward(g, x, radius, 2, 1) for g in (grad, grad.contiguous(memory_format=format)))
        assert by_planar.dtype == dtype and torch.equal(by_planar, by_last)


@pytest.mark.parametrize("pool", (2, 3, 5, 40))
@pytest.mark.parametrize("dims", (2, 3))
def test_pooled_inside_is_pooled_afterwards(dims, pool):
    """In value and gradient; 40 is more than an axis has: nothing is left."""
    x = image(dims, torch.float64)

    def afterwards(x):
        average = F.avg_pool2d if dims == 2 else F.avg_pool3d
        return average(ops.mind_ssc(x), pool) if pool < 40 else ops.mind_ssc(x)[..., :0]

    for backend in ("cpp", "reference"):
        with ops.backend(backend):
            got, want = ops.mind_ssc(x, pool=pool), afterwards(x)
            assert got.shape == (2, want.shape[1], *(n // pool for n in x.shape[2:]))
            if pool < 40:
                assert_close("descriptors", got, want, 1e-14)
                assert_close("gradient", gradient(lambda x: ops.mind_ssc(x, pool=pool), x), gradient(afterwards, x), 1e-13)
            else:
                assert not gradient(lambda x: ops.mind_ssc(x, pool=pool), x).any()
    single = x.float()
    last = ops.mind_ssc(single, pool=pool, dtype=torch.float16, channels_last=True)
    assert last.is_contiguous(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
    assert torch.equal(last, ops.mind_ssc(single, pool=pool, dtype=torch.float16))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
def test_descriptors_too_large_for_the_caches(stored):
    """They are written in another way; rows do not begin on cache lines."""
    x = torch.rand(1, 1, 53, 101, 211, generator=torch.Generator().manual_seed(0))
    with ops.backend("reference"):
        want = ops.mind_ssc(x)
    for channels_last in (False, True):
        got = ops.mind_ssc(x, dtype=stored, channels_last=channels_last)
        assert got.untyped_storage().nbytes() > 16 << 20
        assert_close(f"channels last {channels_last}", got, want, 5 * TOLERANCE[stored])


@pytest.mark.parametrize(
    ("shape", "radius", "pool"),
    [((2, 1, 9, 34), 2, 1), ((1, 1, 3, 2, 4), 2, 1), ((2, 1, 18, 2, 3), 1, 1), ((2, 1, 9, 7), 0, 2)],
    ids=["tiles", "wide boxes", "planes", "pooled"],
)
def test_triton_beyond_one_program_and_radius(shape, radius, pool):
    pytest.importorskip("triton", reason="Triton is not installed")
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))

    def describe(x):
        return ops.mind_ssc(x, radius=radius, dilation=1, pool=pool, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)

    device = "cpu" if interpreted() else "cuda"
    with ops.backend("triton"):
        got = describe(x.to(device)).cpu()
        by_image = gradient(describe, x.to(device)).cpu() if pool > 1 else None
    assert_close("descriptors", got, reference(describe, x), 3e-6)
    if pool > 1:
        assert_close("gradient", by_image, reference(lambda x: gradient(describe, x), x), 3e-5)


def test_opcheck_and_compile():
    for dims in (2, 3):
        x = image(dims)
        for y in (x, x.clone().requires_grad_()):
            torch.library.opcheck(torch.ops.regkit.mind_ssc.default, (y, 1, 2, 2, torch.float16, True))
        torch.library.opcheck(torch.ops.regkit.mind_ssc_backward.default, (torch.rand_like(ops.mind_ssc(x)), x, 1, 2, 1))

    def squared(x):
        return ops.mind_ssc(x * 2, dtype=torch.float16, channels_last=True).float().square()

    assert_close("gradient", gradient(torch.compile(squared, fullgraph=True, backend="aot_eager"), x), gradient(squared, x), 1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(1, 2, 5, 5), 1, 2), ValueError, "one channel"),
        ((torch.zeros(1, 5, 5), 1, 2), ValueError, "2 or 3 spatial axes"),
        ((torch.zeros(1, 1, 5, 5), -1, 2), ValueError, "radius must be at least 0"),
        ((torch.zeros(1, 1, 5, 5), 1, 0), ValueError, "dilation must be at least 1"),
        ((torch.zeros(1, 1, 5, 5, dtype=torch.int16), 1, 2), TypeError, "floating point"),
        ((torch.zeros(1, 1, 5, 5), 1, 2, torch.float64), TypeError, "dtype must be one of"),
    ],
)
def test_errors_name_the_argument(arguments, error, message):
    x, radius, dilation, *dtype = arguments
    with pytest.raises(error, match=message):
        ops.mind_ssc(x, radius=radius, dilation=dilation, dtype=dtype[0] if dtype else None)
