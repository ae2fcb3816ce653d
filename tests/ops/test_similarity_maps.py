"""similarity_maps: against its definition, patches beyond the image, sizes and dtypes, messages. (The rest: test_every_op.py.)"""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from regkit import ops
from regkit.ops.backends import interpreted
from tests.ops.cases import SHAPES, assert_like_reference, randn
from tests.ops.compare import assert_close


def by_convolution(fixed, moving, points, patch_size, kernel_sizes):
    """The padded patches by slicing, the maps by one convolution a point and size."""
    dims, half, reach = fixed.dim() - 2, patch_size // 2, max(kernel_sizes, default=0) // 2
    margin = half + reach + 1
    crop = {2: F.conv2d, 3: F.conv3d}[dims]
    padded = [F.pad(x, [margin] * (2 * dims), mode="replicate") for x in (fixed, moving)]
    out = torch.empty(*points.shape[:2], 2 + len(kernel_sizes), *[patch_size] * dims, dtype=fixed.dtype)
    for b, n in product(range(points.shape[0]), range(points.shape[1])):

        def around(image, radius, b=b, n=n):
            at = (points[b, n] + 0.5).floor().long() + margin
            return image[b, 0][tuple(slice(int(a) - radius, int(a) + radius + 1) for a in at)]

        out[b, n, 0], out[b, n, 1] = around(padded[0], half), around(padded[1], half)
        for k, size in enumerate(kernel_sizes):
            kernel, patch = around(padded[0], size // 2)[None, None], around(padded[1], half + size // 2)[None, None]
            norm = kernel.norm() * crop(patch.square(), torch.ones_like(kernel)).sqrt()
            out[b, n, 2 + k] = (crop(patch, kernel) / (norm + 1e-6))[0, 0]
    return out


def images(dims: int, dtype=torch.float64):
    return randn(2, 1, *SHAPES[dims], seed=1, dtype=dtype), randn(2, 1, *(n + 3 for n in SHAPES[dims]), seed=2, dtype=dtype)


def points_in(dims: int, count: int = 19) -> torch.Tensor:
    return torch.rand(2, count, dims, generator=torch.Generator().manual_seed(3)) * (torch.tensor(SHAPES[dims]) - 1)


@pytest.mark.parametrize("dims", [2, 3])
def test_is_what_it_says(dims):
    (fixed, moving), points = images(dims), points_in(dims)
    got = ops.similarity_maps(fixed, moving, points, patch_size=11, kernel_sizes=(3, 7, 5))
    assert_close("maps", got, by_convolution(fixed, moving, points, 11, (3, 7, 5)), 1e-12)


@pytest.mark.parametrize("patch_size, kernel_sizes", [(1, (1,)), (3, ()), (9, (9, 3, 5, 7)), (5, (11, 1)), (13, (5, 5)), (27, (3,))])
@pytest.mark.parametrize("dims", [2, 3])
def test_any_sizes(dims, patch_size, kernel_sizes):
    (fixed, moving), points = images(dims), points_in(dims, 3)

    def maps(fixed, moving):
        return ops.similarity_maps(fixed, moving, points, patch_size=patch_size, kernel_sizes=kernel_sizes)

    assert_like_reference(f"patch {patch_size}, kernels {kernel_sizes}", maps, (fixed, moving), 1e-12)


@pytest.mark.skipif(not interpreted(), reason="on a GPU tests/kernels/test_triton.py covers it")
@pytest.mark.parametrize(
    "dims, patch_size, kernel_sizes", [(2, 11, (7, 1, 3)), (2, 5, (3, 3)), (2, 17, (1,)), (3, 3, (3, 5)), (3, 1, (1, 3)), (3, 3, ())]
)
def test_triton_any_sizes(dims, patch_size, kernel_sizes):
    fixed, moving = (x[:1].float() for x in images(dims))
    points, options = points_in(dims, 2)[:1], {"patch_size": patch_size, "kernel_sizes": kernel_sizes}
    with ops.backend("triton"):
        got = ops.similarity_maps(fixed, moving, points, **options)
    assert_close("maps", got, by_convolution(fixed, moving, points, patch_size, kernel_sizes), 2e-6)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 6e-3)], ids=str)
def test_dtypes_also_two_at_once(dtype, tolerance):
    (fixed, moving), points = images(3, dtype), points_in(3, 5)
    for a, b in ((fixed, moving), (fixed, moving.float()), (fixed.float(), moving)):
        got = ops.similarity_maps(a, b, points, patch_size=9)
        with ops.backend("reference"):
            want = ops.similarity_maps(a.double(), b.double(), points, patch_size=9)
        assert got.dtype == a.dtype
        assert_close(f"{a.dtype} {b.dtype}", got, want, tolerance)


def test_points_far_outside_halves_and_nan():
    (fixed, moving), n = images(3), SHAPES[3]
    points = torch.tensor([[-1e30, 2.5, 1e30], [float("nan"), -7.0, 3.49], [3.0, float("inf"), -float("inf")]]).expand(2, 3, 3)
    nearest = torch.tensor([[-40, 3, 80], [0, -7, 3], [3, 60, -40]]).expand(2, 3, 3)
    got, want = (ops.similarity_maps(fixed, moving, p, patch_size=7) for p in (points, nearest))
    assert torch.equal(got, want)
    corner = ops.similarity_maps(fixed, moving, torch.full((2, 1, 3), 99.0), patch_size=3)
    assert torch.equal(corner[:, 0, 0], fixed[:, 0, n[0] - 1, n[1] - 1, n[2] - 1].reshape(2, 1, 1, 1).expand(2, 3, 3, 3))
    # One value everywhere correlates perfectly: 1 up to the eps.
    assert_close("maps of constants", corner[:, 0, 2:].abs(), torch.ones_like(corner[:, 0, 2:]), 1e-4)


def test_dark_beside_bright_keeps_its_precision():
    """Local norms of a nearly black region beside a bright one: sums that subtract would lose them."""
    moving = torch.full((1, 1, 20, 20, 40), 1e-3)
    moving[..., :20] = 1000.0
    moving *= 1 + 0.5 * torch.rand(moving.shape, generator=torch.Generator().manual_seed(0))
    fixed, point = moving.flip(2), torch.tensor([[[10.0, 10.0, 28.0]]])
    got = ops.similarity_maps(fixed, moving, point, patch_size=9)
    with ops.backend("reference"):
        want = ops.similarity_maps(fixed.double(), moving.double(), point, patch_size=9)
    assert_close("maps", got[:, :, 2:], want[:, :, 2:], 1e-5)


def test_empty():
    (fixed, moving), points = images(3), points_in(3)
    assert ops.similarity_maps(fixed, moving, points[:, :0]).shape == (2, 0, 6, 27, 27, 27)
    assert ops.similarity_maps(fixed[:0], moving[:0], points[:0], patch_size=3).shape == (0, 19, 6, 3, 3, 3)


def test_op_contract():
    (fixed, moving), points = images(3, torch.float32), points_in(3, 2).long()
    torch.library.opcheck(torch.ops.regkit.similarity_maps.default, (fixed.requires_grad_(), moving.requires_grad_(), points, 5, [3, 5]))


X, P = torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 2)


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((X.to(torch.uint8), X, P), {}, TypeError, "fixed must be floating point"),
        ((X, X.expand(1, 2, 4, 4), P), {}, ValueError, "moving must be an image with one channel"),
        ((X, X[None], P), {}, ValueError, "moving must have 2 spatial axes"),
        ((X, X[..., :0], P), {}, ValueError, "at least one voxel"),
        ((X, X, torch.zeros(1, 2, 3)), {}, ValueError, "points must be"),
        ((X.expand(2, 1, 4, 4), X, P), {}, ValueError, "batch size must agree"),
        ((X, X, P), {"patch_size": 8}, ValueError, "patch_size must be a positive odd number"),
        ((X, X, P), {"kernel_sizes": (3, 4)}, ValueError, "kernel_sizes must be a positive odd number"),
    ],
)
def test_messages(arguments, options, error, message):
    with pytest.raises(error, match=message):
        ops.similarity_maps(*arguments, **options)
