"""warp_labels: the vote, ties, paddings, every integer dtype, messages."""

import pytest
import torch
import torch.nn.functional as F

from regkit import ops
from regkit.ops.backends import interpreted
from regkit.ops.warp_labels import INTEGERS
from tests.ops.cases import SHAPES, displacement, label_map, randn

PADDINGS = ("zeros", "border", "extent")
BACKENDS = ["cpp"] + ["triton"] * interpreted()


def by_reference(*arguments, **options):
    with ops.backend("reference"):
        return ops.warp_labels(*arguments, **options)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_majority_is_the_argmax_of_warped_one_hot_maps(dims, padding):
    labels, u = label_map(tuple(n + 2 for n in SHAPES[dims])), displacement(SHAPES[dims], size=3.0)
    one_hot = F.one_hot(labels[:, 0].long(), 4).movedim(-1, 1).double()
    warped = ops.warp(one_hot, u, padding=padding)
    warped[:, 2] += 1 - warped.sum(1)  # what lies outside counts as label 2
    first, second = warped.topk(2, dim=1).values.unbind(1)
    clear = (first - second > 1e-4)[:, None]
    assert clear.float().mean() > 0.99
    moved = ops.warp_labels(labels, u, mode="majority", padding=padding, fill=2)
    assert torch.equal(moved[clear], warped.argmax(1, keepdim=True)[clear].to(torch.uint8))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", ["nearest", "majority"])
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("dims", [2, 3])
def test_kernel_equals_reference_and_keeps_dtype_and_labels(dims, dtype, mode, padding, backend):
    fill = 0 if dtype == torch.bool else 9
    shape = (6, 9) if dims == 2 else (3, 5, 9)  # small: Triton's interpreter is slow
    labels = (randn(2, 2, *shape) * 3).to(torch.int64).abs()
    if dtype not in (torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool):
        labels = labels - 2
    labels = labels.to(dtype)
    u = displacement(tuple(n + 1 for n in shape), size=3.0, dtype=torch.float32)
    u.flatten(2)[0, :, 3:30] = 0.5  # ties
    u[1, 0].flatten()[2:4] = torch.tensor([float("nan"), 1e30])
    with ops.backend(backend):
        moved = ops.warp_labels(labels, u, mode=mode, padding=padding, fill=fill)
    assert moved.dtype == dtype and torch.equal(moved, by_reference(labels, u, mode=mode, padding=padding, fill=fill))
    assert set(moved.flatten().tolist()) <= {*labels.flatten().tolist(), fill}


@pytest.mark.parametrize("mode", ["nearest", "majority"])
def test_displacement_of_half_precision_and_other_strides(mode):
    labels = label_map(SHAPES[3]).transpose(2, 4).contiguous().transpose(2, 4)
    u = displacement(SHAPES[3], dtype=torch.bfloat16).transpose(1, 4).contiguous().transpose(1, 4)
    want = ops.warp_labels(labels.contiguous(), u.float().contiguous(), mode=mode)
    assert torch.equal(ops.warp_labels(labels, u, mode=mode), want)


def test_votes_ties_and_borders():
    labels = torch.tensor([5, -3, 7, 7], dtype=torch.int16).reshape(1, 1, 1, 4)

    def at(*positions, **options):
        u = torch.zeros(1, 2, 1, len(positions))
        u[0, 1, 0] = torch.tensor(positions) - torch.arange(len(positions))
        return ops.warp_labels(labels, u, mode="majority", **options).flatten().tolist()

    assert at(0.25, 0.5, 0.75, 1.5, 1.51, 2.5) == [5, -3, -3, -3, 7, 7]  # the smaller of two equals
    assert at(-0.25, -0.5, -0.75, 3.5, 3.75, 1e30, fill=6) == [5, 5, 6, 6, 6, 6]
    assert at(-0.5, -0.75, 3.5, 3.75, padding="extent", fill=1) == [5, 1, 7, 1]
    assert at(-9.0, float("inf"), padding="border") == [5, 7]
    assert at(float("nan"), 1.0, fill=2) == [2, -3]
    assert at(float("nan"), padding="border") == [5]


def test_unsigned_labels_are_compared_as_unsigned():
    """At equal votes the smaller label wins: 1, not the largest one of the dtype, whose bits as a signed number are -1."""
    u = torch.full((1, 2, 1, 1), 0.0)
    u[0, 1] = 0.5
    for dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64):
        labels = torch.tensor([-1, 1]).to(dtype).reshape(1, 1, 1, 2)
        for backend in (*BACKENDS, "reference"):
            with ops.backend(backend):
                assert ops.warp_labels(labels, u, mode="majority").item() == 1, (dtype, backend)


def test_one_line_of_a_larger_class_loses_to_a_blob():
    """Votes are summed over corners: 3 weak ones of one label beat a strong one of another."""
    labels = torch.tensor([[1, 2], [2, 2]], dtype=torch.uint8)[None, None]
    u = torch.full((1, 2, 2, 2), 0.0)
    u[0, :, 0, 0] = 0.35
    assert ops.warp_labels(labels, u, mode="nearest")[0, 0, 0, 0] == 1
    assert ops.warp_labels(labels, u, mode="majority")[0, 0, 0, 0] == 2


def test_nothing_in_nothing_out():
    assert ops.warp_labels(torch.zeros(0, 1, 4, 4, dtype=torch.uint8), torch.zeros(0, 2, 3, 3), mode="majority").shape == (0, 1, 3, 3)
    assert ops.warp_labels(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.zeros(1, 2, 0, 3), mode="majority").shape == (1, 1, 0, 3)


def test_op_contract():
    labels, u = label_map((4, 5, 6)), displacement((4, 5, 6), dtype=torch.float32)
    torch.library.opcheck(torch.ops.regkit.warp_labels.default, (labels, u, 0, 3))


@pytest.mark.parametrize(
    "labels, options, error, message",
    [
        (torch.zeros(1, 1, 4, 4), {}, TypeError, "labels must be integers"),
        (torch.zeros(1, 1, 4, 4, 4, dtype=torch.uint8), {}, ValueError, "labels must have 2 spatial axes"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), {}, ValueError, "labels has 2, displacement has 1"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), {"fill": 256}, ValueError, "from 0 to 255"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.int64), {"fill": 2**60}, ValueError, "from -9007199254740992 to"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), {"mode": "linear"}, ValueError, "mode must be one of nearest, majority"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), {"padding": "wrap"}, ValueError, "padding must be one of"),
        (torch.zeros(1, 1, 0, 4, dtype=torch.uint8), {}, ValueError, "at least one voxel"),
    ],
)
def test_messages(labels, options, error, message):
    with pytest.raises(error, match=message):
        ops.warp_labels(labels, torch.zeros(1, 2, 4, 4), **options)
