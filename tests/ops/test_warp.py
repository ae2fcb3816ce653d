"""warp: positions, paddings, labels, odd displacements, messages. (The rest: test_every_op.py.)"""

import pytest
import torch
import torch.nn.functional as F

from regkit import ops
from tests.ops.cases import SHAPES, assert_like_reference, displacement, randn
from tests.ops.compare import assert_close

PADDINGS = ("zeros", "border", "extent")
LABELS = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64,
    torch.bool, torch.float16, torch.float32, torch.float64,
)  # fmt: skip


def by_grid_sample(image, u, padding):
    """torch's own sampler: normalised positions, last axis first."""
    spatial = u.shape[2:]
    index = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=u.dtype) for n in spatial), indexing="ij"))
    size = torch.tensor(image.shape[2:], dtype=u.dtype).reshape(-1, *[1] * len(spatial))
    grid = (2 * (index + u) / (size - 1) - 1).movedim(1, -1).flip(-1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode=padding, align_corners=True)


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("dims", [2, 3])
def test_equals_grid_sample_also_for_an_image_of_another_size(dims, padding):
    image, u = randn(2, 3, *(n + 4 for n in SHAPES[dims])), displacement(SHAPES[dims], size=4.0)
    assert_close("moved", ops.warp(image, u, padding=padding), by_grid_sample(image, u, padding), 1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dims", [2, 3])
def test_image_and_displacement_of_different_size_and_dtype(dims, padding):
    image = randn(2, 2, *(n // 2 for n in SHAPES[dims]), dtype=torch.float16)
    u = displacement(SHAPES[dims], dtype=torch.float32, size=6.0)
    assert ops.warp(image, u).dtype == torch.float16
    assert_like_reference("warp", lambda image, u: ops.warp(image, u, padding=padding, fill=0.5), (image, u), 1e-3)


def test_component_d_moves_along_axis_d():
    image = randn(1, 1, 6, 7, 8)
    u = torch.zeros(1, 3, 6, 7, 8, dtype=torch.float64)
    u[:, 0], u[:, 1], u[:, 2] = 1, -2, 3
    want = torch.zeros_like(image)
    want[..., :5, 2:, :5] = image[..., 1:, :5, 3:]
    assert torch.equal(ops.warp(image, u), want)


def test_what_lies_outside():
    image = torch.tensor([[[[1.0, 2.0]]]], dtype=torch.float64)
    position = torch.tensor(
        [-9.0, -1.0, -0.75, -0.5, 0.0, 0.5, 1.0, 1.5, 1.75, 2.0, 1e30, float("inf"), -float("inf")], dtype=torch.float64
    )
    u = torch.stack([torch.zeros_like(position), position - torch.arange(len(position))])[None, :, None, :]
    u[..., 1, 0, -2:] = position[-2:]
    inside = [1.0, 1.5, 2.0]
    zeros = [7.0, 7.0, 5.5, 4.0, *inside, 4.5, 5.75, 7.0, 7.0, 7.0, 7.0]  # blends with 7, the cell outside
    border = [1.0] * 4 + inside + [2.0] * 5 + [1.0]
    extent = [7.0] * 3 + [1.0, *inside, 2.0] + [7.0] * 5
    for padding, want in zip(PADDINGS, (zeros, border, extent)):
        got = ops.warp(image, u, padding=padding, fill=7.0)
        assert got.flatten().tolist() == pytest.approx(want), padding


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dims", [2, 3])
def test_nan_displacement_gives_nan_there_and_only_there(dims, padding):
    image, u = randn(1, 2, *SHAPES[dims]), displacement(SHAPES[dims], 1)
    u[(0, dims - 1, *[1] * dims)] = float("nan")
    u[(0, 0, *[2] * dims)] = float("nan")
    moved = ops.warp(image, u, padding=padding)
    assert int(moved.isnan().sum()) == 4
    g = torch.ones_like(moved)
    with ops.backend("reference"):
        want = torch.ops.regkit.warp_backward(g, image, u, PADDINGS.index(padding), 0.0, False, True)[1]
    assert_close("gradient of u", torch.ops.regkit.warp_backward(g, image, u, PADDINGS.index(padding), 0.0, False, True)[1], want, 1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dtype", LABELS, ids=str)
@pytest.mark.parametrize("dims", [2, 3])
def test_labels_keep_their_dtype_and_their_set(dims, dtype, padding):
    labels = (randn(2, 2, *SHAPES[dims]) * 40).abs().to(torch.int64).to(dtype)
    u = displacement(tuple(n + 2 for n in SHAPES[dims]), size=3.0, dtype=torch.float32)
    moved = ops.warp(labels, u, mode="nearest", padding=padding, fill=1)
    with ops.backend("reference"):
        want = ops.warp(labels, u, mode="nearest", padding=padding, fill=1)
    assert moved.dtype == dtype and torch.equal(moved, want)
    assert set(moved.flatten().tolist()) <= {*labels.flatten().tolist(), 1}


def test_large_labels_and_halves():
    labels = torch.tensor([2**62, -5, 2**40 + 1], dtype=torch.int64).reshape(1, 1, 1, 3)
    u = torch.zeros(1, 2, 1, 3)
    u[0, 1, 0] = torch.tensor([0.5, -0.5, 0.5])  # halves round up: index 1, 1 and 3
    assert ops.warp(labels, u, mode="nearest").flatten().tolist() == [-5, -5, 0]
    u[0, 1, 0, 0] = float("nan")
    assert ops.warp(labels, u, mode="nearest", fill=-1).flatten().tolist() == [-1, -5, -1]
    assert ops.warp(labels, u, mode="nearest", padding="border").flatten().tolist() == [2**62, -5, 2**40 + 1]


def test_many_threads_add_to_one_image_voxel_in_order():
    """All samples fall into one cell: the sum over them must be complete."""
    image, u = randn(1, 1, 6, 5, 4), torch.zeros(1, 3, 6, 5, 4, dtype=torch.float64)
    for d, n in enumerate((6, 5, 4)):
        u[:, d] = 1.25 - torch.arange(n, dtype=torch.float64).reshape(-1, *[1] * (2 - d))
    image.requires_grad_()
    ops.warp(image, u).sum().backward()
    assert image.grad.sum().item() == pytest.approx(120)
    assert image.grad[0, 0, 1, 1, 1].item() == pytest.approx(120 * 0.75**3)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize(("channels", "dims", "last"), [(4, 2, True), (8, 3, True), (3, 3, False)])
def test_gradient_of_an_image_with_strides(channels, dims, last, backend):
    """Channels last where these come in fours, as the fake says; else contiguous. The same numbers in any case."""
    image, u = randn(2, channels, *SHAPES[dims]), displacement(SHAPES[dims])
    formats = torch.contiguous_format, torch.channels_last if dims == 2 else torch.channels_last_3d
    turned, strided = image.to(memory_format=formats[1]), image.transpose(2, -1).contiguous().transpose(2, -1)
    with ops.backend(backend):
        want, *got = (torch.ops.regkit.warp_backward(image, x, u, 0, 0.0, True, False)[0] for x in (image, turned, strided))
        torch.library.opcheck(torch.ops.regkit.warp_backward.default, (image, turned, u, 0, 0.0, True, False))
    assert want.abs().sum() > 0 and all(torch.equal(x, want) for x in got)
    assert got[0].is_contiguous(memory_format=formats[last]) and got[1].is_contiguous()


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4)), ValueError, "displacement must be"),
        ((torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4, 4)), ValueError, "image must have 3 spatial axes"),
        ((torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4, dtype=torch.int32)), TypeError, "displacement must be floating point"),
        ((torch.zeros(1, 1, 4, 4, dtype=torch.int16), torch.zeros(1, 2, 4, 4)), TypeError, "image must be floating point"),
        ((torch.zeros(2, 1, 4, 4), torch.zeros(1, 2, 4, 4)), ValueError, "image has 2, displacement has 1"),
        ((torch.zeros(1, 1, 0, 4), torch.zeros(1, 2, 4, 4)), ValueError, "at least one voxel"),
    ],
)
def test_messages(arguments, error, message):
    with pytest.raises(error, match=message):
        ops.warp(*arguments)
    u = torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match="padding must be one of zeros, border, extent"):
        ops.warp(u, u, padding="reflect")
    with pytest.raises(ValueError, match="mode must be one of linear, nearest"):
        ops.warp(u, u, mode="cubic")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dims", [2, 3])
def test_halves_are_read_as_they_are(dims, dtype):
    """Their values and gradients are those of the same image in float32, rounded at the end; most samples lie inside, some do not."""
    spatial = (9, 14, 70)[-dims:]
    image = torch.randn(2, 2, *spatial, generator=torch.Generator().manual_seed(0)).to(dtype)
    u = 2 * F.interpolate(torch.randn(2, dims, *(3,) * dims, generator=torch.Generator().manual_seed(1)), size=spatial)
    for padding in ("zeros", "border", "extent"):
        moved, wide = (ops.warp(x, u, padding=padding, fill=0.5) for x in (image, image.float()))
        assert moved.dtype == dtype
        torch.testing.assert_close(moved, wide.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)
        grad = torch.randn(moved.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        pairs = (grad, image), (grad.float(), image.float())
        by_half, by_wide = (torch.ops.regkit.warp_backward(g, x, u, PADDINGS.index(padding), 0.5, False, True)[1] for g, x in pairs)
        torch.testing.assert_close(by_half, by_wide, rtol=1e-5, atol=1e-5)
