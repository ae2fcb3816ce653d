"""warp_affine: like warp of the same affine, exact positions, paddings, label maps, any shape, strides, threads, messages."""

import itertools
import math

import pytest
import torch

from regkit import ops
from regkit.ops.backends import interpreted
from regkit.ops.warp_labels import INTEGERS
from tests.ops.cases import SHAPES, affine, label_map, randn
from tests.ops.compare import assert_close

PADDINGS = ("zeros", "border", "extent")
BACKENDS = ["cpp"] + ["triton"] * interpreted()
TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}


def by(backend, *arguments, **options):
    with ops.backend(backend):
        return ops.warp_affine(*arguments, **options)


def matrix_of(linear, shift) -> torch.Tensor:
    linear, shift = (torch.as_tensor(x, dtype=torch.float64) for x in (linear, shift))
    return torch.cat([linear, shift[:, None]], 1)


def as_displacement(matrix: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """The displacement that moves voxels as the matrix (B, D, D+1) does."""
    x = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij"))
    return torch.einsum("bde,e...->bd...", matrix[..., :-1], x) + matrix[..., -1].reshape(-1, len(size), *[1] * len(size)) - x


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dims", [2, 3])
def test_is_warp_by_the_same_affine(dims, padding, backend):
    size = (9, 17) if dims == 2 else (4, 5, 18)
    image, labels = randn(2, 2, *SHAPES[dims], seed=1), label_map(SHAPES[dims])
    matrix = affine(SHAPES[dims])
    moved, moved_labels = by(backend, image, matrix, size, labels=labels, padding=padding, fill=0.3)
    u = as_displacement(matrix, size)
    assert_close("image", moved, ops.warp(image, u, padding=padding, fill=0.3), 1e-7)
    assert torch.equal(moved_labels, ops.warp_labels(labels, u, padding=padding))
    assert padding == "border" or 0.02 < (moved == 0.3).double().mean() < 0.9  # some of it is outside


# Interior blocks are 16 voxels along the last axis, tiles 16 rows and 32 planes.
SIZES = [
    ((13, 37), (14, 35)), ((40, 41), (40, 70)), ((1, 1), (2, 3)), ((1, 5), (3, 20)), ((6, 1), (6, 1)),
    ((7, 9, 37), (6, 18, 40)), ((34, 3, 17), (35, 3, 17)), ((1, 1, 1), (1, 2, 3)), ((1, 6, 40), (2, 6, 40)), ((5, 1, 3), (5, 1, 3)),
    ((4, 3, 1), (4, 4, 33)),
]  # fmt: skip


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("spatial, size", SIZES, ids=str)
def test_cpp_follows_reference(spatial, size, dtype, padding):
    compare("cpp", spatial, size, dtype, padding)


@pytest.mark.skipif(not interpreted(), reason="GPUs have tests of their own")
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    "spatial, size, dtype",
    [
        ((9, 37), (9, 35), torch.float32),
        ((1, 5), (3, 20), torch.float16),
        ((3, 5, 7), (2, 9, 9), torch.float64),
        SIZES[7] + (torch.float32,),
    ],
    ids=str,
)
def test_triton_follows_reference(spatial, size, dtype, padding):
    compare("triton", spatial, size, dtype, padding)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("step", [1.0, -1.0, 0.7, -1.3, 3.9, 4.1, 0.0], ids=str)
def test_rows_along_rows_of_the_image(step, dtype):
    """Crops and changes of spacing, for which the CPU has a path of its own."""
    for spatial, size in SIZES[:8:2] + [((5, 30, 90), (5, 20, 100))]:
        linear = affine(spatial, 1, seed=7)[0, :, :-1]
        linear[:, -1] = 0
        linear[-1, -1] = step
        shift = torch.tensor([0.25, 0.5, 3.3])[: len(spatial)]
        shift[-1] += spatial[-1] - 1 if step < 0 else 0
        image = randn(1, 2, *spatial, seed=1).to(dtype)
        labels = (9 * randn(1, 2, *spatial, seed=2)).to(torch.int32)
        got, got_labels = ops.warp_affine(image, matrix_of(linear, shift), size, labels=labels, fill=-2.0)
        want, want_labels = by("reference", image.double(), matrix_of(linear, shift), size, labels=labels, fill=-2.0)
        assert_close(f"{spatial}", got, want, TOLERANCE[dtype])
        assert torch.equal(got_labels, want_labels)


def compare(backend, spatial, size, dtype, padding):
    image = randn(2, 2, *spatial, seed=1).to(dtype)
    labels = (3 * randn(2, 2, *spatial, seed=2)).to(torch.int16)
    for matrix in (affine(spatial), affine(spatial, seed=5).mul(2).round().div(2)):  # the latter is full of halves
        moved, moved_labels = by(backend, image, matrix, size, labels=labels, padding=padding, fill=0.3)
        want, want_labels = by("reference", image.double(), matrix, size, labels=labels, padding=padding, fill=0.3)
        assert moved.dtype == dtype
        assert_close("image", moved, want, TOLERANCE[dtype])
        assert torch.equal(moved_labels, want_labels)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_any_integer_dtype(dtype, backend):
    labels = (randn(1, 2, 3, 5, 9) * 3).to(torch.int64).abs()
    labels = (labels if dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool) else labels - 2).to(dtype)
    image, matrix = randn(1, 1, 3, 5, 9).float(), affine((3, 5, 9), 1)
    for padding in PADDINGS:
        moved = by(backend, image, matrix, labels=labels, padding=padding)[1]
        assert moved.dtype == dtype and torch.equal(moved, by("reference", image, matrix, labels=labels, padding=padding)[1])
        assert set(moved.flatten().tolist()) <= {*labels.flatten().tolist(), 0}


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_crops_pads_and_flips_are_exact(backend):
    image = randn(1, 1, 3, 6, 11).float()
    labels = (image * 4).to(torch.int32)
    cropped = by(backend, image, matrix_of(torch.eye(3), [1, 2, 3]), (2, 4, 6), labels=labels)
    assert all(torch.equal(got, x[..., 1:, 2:, 3:9]) for got, x in zip(cropped, (image, labels)))
    padded = by(backend, image, matrix_of(torch.eye(3), [-1, -2, 0]), (4, 8, 20), labels=labels, fill=-5.0)
    for got, x, value in zip(padded, (image, labels), (-5, 0)):
        assert torch.equal(got, torch.nn.functional.pad(x, (0, 9, 2, 0, 1, 0), value=value))
    flipped = by(backend, image, matrix_of(torch.diag(torch.tensor([1.0, -1.0, -1.0])), [0, 5, 10]), labels=labels)
    assert all(torch.equal(got, x.flip(3, 4)) for got, x in zip(flipped, (image, labels)))


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_quarter_turns_are_exact_though_cosines_are_not(backend):
    """cos 90 degrees comes as 6e-17, which moves no voxel; of two labels at the same distance, every one comes from above."""
    image = randn(1, 1, 8, 8).float()
    labels = (image * 9).to(torch.int32)
    c, s = math.cos(math.pi / 2), math.sin(math.pi / 2)
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    center = torch.full((2,), 3.5, dtype=torch.float64)
    moved, moved_labels = by(backend, image, matrix_of(turn, center - turn @ center), labels=labels)
    assert torch.equal(moved, image.rot90(-1, (2, 3))) and torch.equal(moved_labels, labels.rot90(-1, (2, 3)))
    half = by(backend, image, matrix_of(2 * turn, [7.5, -0.5]), (4, 4), labels=labels)[1]  # (7.5 - 2 j, 2 i - 0.5), up to 8 and from 0
    i, j = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    want = torch.where(8 - 2 * j < 8, labels[0, 0][(8 - 2 * j).clamp(max=7), 2 * i], 0)
    assert torch.equal(half[0, 0], want)


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_positions_at_the_edge(backend):
    image, labels = (torch.tensor([2.0, 4.0, 8.0]).reshape(1, 1, 1, 3), torch.tensor([2, 4, 8]).reshape(1, 1, 1, 3))

    def at(position, **options):
        got = by(backend, image, matrix_of(torch.eye(2), [0, position]), (1, 1), labels=labels, fill=16.0, **options)
        return [x.item() for x in got]

    assert [at(p) for p in (-1, -0.75, -0.5, -0.25, 0)] == [[16, 0], [12.5, 0], [9, 2], [5.5, 2], [2, 2]]
    assert [at(p) for p in (0.5, 1.5, 2, 2.25, 2.5, 3)] == [[3, 4], [6, 8], [8, 8], [10, 8], [12, 0], [16, 0]]
    extent = [at(p, padding="extent") for p in (-0.75, -0.5, 0, 2, 2.5, 2.5 + 2**-31, 3)]
    assert extent == [[16, 0], [2, 2], [2, 2], [8, 8], [8, 0], [16, 0], [16, 0]]
    assert [at(p, padding="border") for p in (-1e30, -1, 0.5, 2.5, 1e30, math.inf)] == [[2, 2], [2, 2], [3, 4], [8, 8], [8, 8], [8, 8]]


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_what_is_not_in_the_image_does_not_count(backend):
    """Not even a NaN at its edge, which a weight of zero would let through."""
    image = torch.full((1, 1, 4, 20), math.nan)
    image[..., 1:3, :] = 1.0
    moved = by(backend, image, matrix_of(torch.eye(2), [0, -29.5]), (4, 49), fill=3.0)
    assert (moved[..., :29] == 3).all()
    assert moved[0, 0, :, 29:].isnan().all(1).tolist() == [True, False, True, True]  # row 2 is row 2 and 0 times row 3, which is inside
    assert (moved[0, 0, 1] == torch.tensor([3.0] * 29 + [2.0] + [1.0] * 19)).all()
    assert by(backend, image, matrix_of(torch.eye(2), [-9, 0]), (4, 40), fill=3.0).eq(3).all()


@pytest.mark.filterwarnings("ignore:invalid value")  # of Triton's interpreter: 0 times infinity
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_in_the_image_spreads_as_in_the_reference(backend):
    image = randn(1, 1, 5, 7, 40).float()
    image[0, 0, 2, 3, 17] = math.nan
    image[0, 0, 4, 6, 39] = math.inf
    for matrix in (matrix_of(torch.eye(3), [0, 1, 0.5]), matrix_of(torch.eye(3), [0, 0, 0]), affine((5, 7, 40), 1)):
        got, want = by(backend, image, matrix), by("reference", image, matrix)
        assert torch.equal(got.isfinite(), want.isfinite()) and 0 < (~got.isfinite()).sum() < 40


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_nan_in_a_matrix(backend, padding):
    image, labels = randn(2, 1, 4, 5, 6).float(), label_map((4, 5, 6)) + 1
    matrix = affine((4, 5, 6))
    good, good_labels = by(backend, image, matrix, labels=labels, padding=padding)
    matrix[1, 2, 0] = math.nan
    moved, moved_labels = by(backend, image, matrix, labels=labels, padding=padding)
    assert torch.equal(moved[0], good[0]) and torch.equal(moved_labels[0], good_labels[0])
    assert moved[1].isnan().all()
    assert (moved_labels[1] == (labels[1, 0, 0, 0, 0] if padding == "border" else 0)).all()


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_huge_numbers_lead_outside(backend):
    image = randn(1, 1, 4, 5).float()
    for entry, value in itertools.product(((0, 0), (1, 2), (0, 2)), (1e30, -1e30, math.inf, -math.inf)):
        matrix = torch.eye(2, 3)
        matrix[entry] = value
        moved = by(backend, image, matrix, fill=7.0)
        moved_row = moved[..., 1:, :] if entry == (0, 0) else moved  # the first row times infinity counts as 0
        assert (moved_row == 7).all()


def test_positions_are_as_exact_as_float64():
    """A voxel far out along an axis, of a matrix that float32 would round."""
    ramp = torch.arange(3000, dtype=torch.float64).reshape(1, 1, 1, -1)
    matrix = matrix_of([[1.0, 0.0], [0.0, 1 / 3]], [0.0, 0.1])
    got = ops.warp_affine(ramp, matrix, (1, 8000))
    assert (got[0, 0, 0] - (torch.arange(8000).double() / 3 + 0.1)).abs().max() < 2e-6
    assert (ops.warp_affine(ramp.float(), matrix, (1, 8000)) - got).abs().max() < 3e-4  # values of float32, of up to 3000


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_labels_alone_go_with_an_image_of_no_channels(backend):
    labels, matrix = label_map((4, 5, 6)), affine((4, 5, 6))
    nothing, moved = by(backend, torch.zeros(2, 0, 4, 5, 6), matrix, labels=labels)
    assert nothing.shape == (2, 0, 4, 5, 6) and torch.equal(moved, by("reference", labels.float(), matrix, labels=labels)[1])


def test_one_matrix_for_the_whole_batch_and_float32():
    image, matrix = randn(3, 2, 5, 6, 7).float(), affine((5, 6, 7), 1)[0].float()
    want = torch.cat([ops.warp_affine(x[None], matrix[None].double()) for x in image])
    assert torch.equal(ops.warp_affine(image, matrix), want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_strides(backend):
    image, labels = (x.transpose(2, 4).contiguous().transpose(2, 4) for x in (randn(2, 2, 5, 6, 7).float(), label_map((5, 6, 7))))
    matrix = affine((5, 6, 7)).transpose(1, 2).contiguous().transpose(1, 2)
    got = by(backend, image, matrix, labels=labels)
    want = by(backend, image.contiguous(), matrix.contiguous(), labels=labels.contiguous())
    assert all(torch.equal(x, y) and x.is_contiguous() for x, y in zip(got, want))


def test_result_does_not_depend_on_the_threads():
    image, labels, matrix = randn(1, 1, 37, 41, 50).float(), label_map((37, 41, 50), 1), affine((37, 41, 50), 1)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(ops.warp_affine(image, matrix, labels=labels))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for result in results[1:] for x, y in zip(result, results[0]))


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_nothing_in_nothing_out(backend):
    labels = torch.zeros(0, 1, 4, 4, dtype=torch.uint8)
    assert [x.shape for x in by(backend, labels.float(), torch.eye(2, 3), (3, 5), labels=labels)] == [(0, 1, 3, 5)] * 2
    for image, size in ((torch.zeros(1, 1, 4, 4), (0, 3)), (torch.zeros(1, 1, 4, 4), (3, 0)), (torch.zeros(1, 1, 0, 4), (0, 4))):
        got = by(backend, image, torch.eye(2, 3), size, labels=image.to(torch.uint8))
        assert [x.shape for x in got] == [(1, 1, *size)] * 2


def test_compiled_whole():
    image, labels, matrix = randn(2, 1, 5, 6, 7).float(), label_map((5, 6, 7)), affine((5, 6, 7))

    def function(image, matrix):
        moved, moved_labels = ops.warp_affine(2 * image, matrix, (6, 6, 6), labels=labels)
        return moved + 1, moved_labels

    torch.compiler.reset()
    got = torch.compile(function, fullgraph=True, backend="aot_eager")(image, matrix)
    assert all(torch.equal(x, y) for x, y in zip(got, function(image, matrix)))


IMAGE, LABELS, EYE = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.eye(2, 3)


@pytest.mark.parametrize(
    "image, matrix, options, error, message",
    [
        (IMAGE.int(), EYE, {}, TypeError, "image must be floating point.*or pass it as labels"),
        (IMAGE[0], EYE, {}, ValueError, "image must be"),
        (IMAGE, torch.eye(3, 4), {}, ValueError, r"matrix must be \(2, 2, 3\) or \(2, 3\) for images of 2 axes, but came as \(3, 4\)"),
        (IMAGE, EYE.expand(3, 2, 3), {}, ValueError, r"came as \(3, 2, 3\)"),
        (IMAGE, EYE.half(), {}, TypeError, "matrix must be float32 or float64"),
        (IMAGE, EYE, {"size": (4, 4, 4)}, ValueError, "size must be 2 numbers"),
        (IMAGE, EYE, {"size": (4, -1)}, ValueError, "none of them negative"),
        (IMAGE, EYE, {"padding": "wrap"}, ValueError, "padding must be one of"),
        (IMAGE[..., :0], EYE, {"size": (3, 3)}, ValueError, "at least one voxel"),
        (IMAGE, EYE, {"labels": IMAGE}, TypeError, "labels must be integers"),
        (IMAGE, EYE, {"labels": LABELS[:1]}, ValueError, "batch size must agree"),
        (IMAGE, EYE, {"labels": LABELS[..., :3]}, ValueError, "spatial size must agree"),
        (IMAGE, EYE, {"labels": LABELS[None]}, ValueError, "labels must have 2 spatial axes"),
    ],
)
def test_messages(image, matrix, options, error, message):
    with pytest.raises(error, match=message):
        ops.warp_affine(image, matrix, **options)
