"""What holds for every differentiable op, whatever shape, dtype, strides or threads: kernels follow the reference, gradients are right."""

import math

import pytest
import torch

from regkit import ops
from tests.ops.cases import (
    NAMES,
    SHAPES,
    affine,
    assert_like_reference,
    assert_same,
    cases,
    displacement,
    randn,
    reference,
    value_and_gradients,
)

DIMS = (2, 3)
ODD_SHAPES = [(1, 1), (1, 5), (6, 1), (2, 2), (3, 64), (1, 1, 1), (1, 6, 7), (5, 1, 3), (4, 3, 1), (2, 2, 2), (3, 2, 33)]
# Rounding to the 11 or 8 bits of a half is the whole error there.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("name", NAMES)
def test_kernel_follows_reference(name, dims, dtype):
    case = cases(SHAPES[dims], dtype=dtype)[name]
    got = value_and_gradients(case.function, case.tensors)
    assert_same(name, got, reference(case.function, case.tensors), TOLERANCE[dtype])
    assert [g.dtype for g in got[1:]] == [t.dtype for t in case.tensors]


@pytest.mark.parametrize("spatial", ODD_SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_any_shape(name, spatial):
    case = cases(spatial)[name]
    nothing_varies = {"diffusion_energy": [(1, 1), (1, 1, 1)], "bending_energy": [(1, 1), (1, 1, 1)]}
    if spatial in nothing_varies.get(name, ()):
        assert case.function(*case.tensors) == 0
    elif math.prod(spatial) == 1 and name == "expected_displacement":  # all similarities are one: rounding is what its gradients consist of
        assert all(gradient.abs().max() < 1e-12 for gradient in value_and_gradients(case.function, case.tensors)[1:])
    else:
        # The windows of one voxel among zeros correlate perfectly: their gradient is what rounding leaves of 0.
        assert_like_reference(name, case.function, case.tensors, 1e-9 if "lncc" in name else 1e-11)


@pytest.mark.parametrize("implementation", ["cpp", "reference"])
@pytest.mark.parametrize("spatial", [(4, 5), (3, 4, 3)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_by_finite_differences(name, spatial, implementation):
    case = cases(spatial, batch=1)[name]
    with ops.backend(implementation):
        assert torch.autograd.gradcheck(case.function, [t.clone().requires_grad_() for t in case.tensors], atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("name", NAMES)
def test_non_contiguous_inputs(name, dims):
    case = cases(SHAPES[dims])[name]
    strided = tuple(t.transpose(0, -1).contiguous().transpose(0, -1) for t in case.tensors)
    assert not any(t.is_contiguous() for t in strided)
    assert_same(name, value_and_gradients(case.function, strided), value_and_gradients(case.function, case.tensors), 0.0)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("name", NAMES)
def test_empty_batch(name, dims):
    case = cases(SHAPES[dims], batch=0)[name]
    got = value_and_gradients(case.function, case.tensors)
    want = reference(case.function, case.tensors)
    assert [g.shape for g in got] == [w.shape for w in want]
    assert got[0].numel() == 0 or bool(got[0].isnan())


@pytest.mark.parametrize("name", NAMES)
def test_result_does_not_depend_on_the_threads(name):
    case = cases((37, 41, 50), batch=1, dtype=torch.float32)[name]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(value_and_gradients(case.function, case.tensors))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(result, results[0]))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_one_input_alone(name):
    case = cases(SHAPES[3])[name]
    both = value_and_gradients(case.function, case.tensors)[1:]
    for wanted, gradient in enumerate(both):

        def of_one(x, wanted=wanted):
            return case.function(*(x if i == wanted else t for i, t in enumerate(case.tensors)))

        assert_same(name, value_and_gradients(of_one, (case.tensors[wanted],))[1:], [gradient], 1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_whole_with_right_gradients(name):
    case = cases((5, 6, 7), dtype=torch.float32)[name]
    torch.compiler.reset()
    compiled = torch.compile(case.function, fullgraph=True, backend="aot_eager")
    assert_same(name, value_and_gradients(compiled, case.tensors), value_and_gradients(case.function, case.tensors), 1e-6)


def test_a_loss_compiled_by_inductor():
    fixed, moving = (randn(1, 1, 9, 10, 11, seed=seed, dtype=torch.float32) for seed in (0, 1))
    u = displacement((9, 10, 11), 1, dtype=torch.float32)

    def loss(u):
        u = 2.0 * u
        return -ops.lncc(fixed, ops.warp(moving, u), window=5) + 0.1 * ops.diffusion_energy(u) + ops.jacobian_determinant(u).relu().mean()

    torch.compiler.reset()
    assert_same("loss", value_and_gradients(torch.compile(loss, fullgraph=True), (u,)), value_and_gradients(loss, (u,)), 1e-6)


def _calls() -> dict[str, tuple]:
    a, b = randn(2, 2, 5, 6, 7, dtype=torch.float32), randn(2, 2, 5, 6, 7, seed=1, dtype=torch.float32)
    u, v = displacement((5, 6, 7), dtype=torch.float32), displacement((5, 6, 7), seed=1, dtype=torch.float32)
    points, search = torch.tensor([[[1, 2, 3], [6, 4, 0]]] * 2), (1, 2, 1, 1, 0)
    basis, projected = randn(27, 4, dtype=torch.float32), randn(2, 2, 4, dtype=torch.float32)
    expected = torch.ops.regkit.expected_displacement(a, b, points, points, *search, 0.5)
    size, geometry = [10, 12, 14], ([2.0, 2.0, 2.0], [0.0, 0.0, 0.0], [1.0, 1.0])
    return {
        "warp": (a.requires_grad_(), u.requires_grad_(), 0, 0.5),
        "warp_backward": (b, a.detach(), u.detach(), 0, 0.5, True, False),
        "warp_affine": (a.detach(), affine((5, 6, 7)), [6, 5, 4], 0, 0.5),
        "warp_affine_nearest": (a.detach().to(torch.int16), affine((5, 6, 7)), [6, 5, 4], 1),
        "warp_nearest": (a.detach().to(torch.int16), u.detach(), 1, 0.0),
        "lncc": (a.detach(), b, b[:, :1].abs(), 5, 1e-5, False, True),
        "lncc_map": (a, b, 5, 1e-5),
        "lncc_map_backward": (b, a.detach(), b, 5, 1e-5, False, True),
        "warp_lncc": (a.detach(), b, u.detach().requires_grad_(), b[:, :1].abs(), 5, 1, 0.0, 1e-5, True),
        "warp_lncc_backward": (torch.tensor(0.5), a.detach(), b, u.detach(), None, 5, 0, 0.5, 1e-5),
        "warp_ssd": (a.detach(), b, u.detach().requires_grad_(), b[:, :1].abs(), 1, 0.0, True),
        "compose": (u, v.requires_grad_()),
        "compose_backward": (v.detach(), u.detach(), v.detach(), True, True),
        "integrate_velocity": (u.requires_grad_(), 3, True),
        "integrate_velocity_backward": (v.detach(), u.detach(), u.detach().new_empty(0), 3),
        "invert": (u.detach(), 5, 0.01),
        "jacobian_determinant": (u,),
        "jacobian_determinant_backward": (a.detach()[:, :1], u.detach()),
        "jacobian_summary": (u.detach(), a.detach()[:, :1] > 0),
        "diffusion_energy": (a, [1.0, 2.0, 3.0], True),
        "bending_energy": (a, [1.0, 2.0, 3.0], True),
        "correlate_dense": (a, b.clone().requires_grad_(), 1, 2, 1),
        "correlate_dense_backward": (randn(2, 27, 5, 6, 7, dtype=torch.float32), a.detach(), b, 1, 2, 1, True, False),
        "expected_displacement": (a, b, points, points, *search, 0.5),
        "expected_displacement_backward": (expected[0], *expected, a.detach(), b, points, points, *search, 0.5, False, True),
        "best_displacement": (a.detach(), b, points, points, *search),
        "embed_displacements": (a, b, points, points, basis.clone().requires_grad_(), *search),
        "embed_displacements_backward": (projected, a.detach(), b, points, points, basis, *search, True, False, True),
        "mind_ssc": (a.detach()[:, :1].requires_grad_(), 1, 2, 2, torch.float16, True),
        "mind_ssc_backward": (randn(2, 12, 5, 6, 7, dtype=torch.float32), b[:, :1], 1, 2, 1),
        "upsample": (a, size, *geometry),
        "upsample_backward": (randn(2, 2, *size, dtype=torch.float32), [5, 6, 7], *geometry),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", _calls())
def test_opcheck(op, dtype):
    def convert(x):
        return x.detach().to(dtype).requires_grad_(x.requires_grad) if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    torch.library.opcheck(getattr(torch.ops.regkit, op).default, tuple(map(convert, _calls()[op])))


@pytest.mark.parametrize("name", ["lncc mean", "diffusion_energy"])
def test_loss_scaling_saves_float16_gradients_of_a_mean(name):
    """A mean over a million voxels has gradients below the smallest float16; multiplied by the scale they must be there."""
    tensors = tuple(randn(1, 1, 60, 130, 130, seed=seed).half() for seed in range(1 if name == "diffusion_energy" else 2))
    function = ops.diffusion_energy if name == "diffusion_energy" else ops.lncc
    leaf = tensors[0].requires_grad_()
    (65536.0 * function(leaf, *tensors[1:])).backward()
    assert (leaf.grad != 0).float().mean() > 0.9


def test_ops_without_a_gradient_say_so_by_their_result():
    """Not by a warning in backward: inputs that require a gradient give results that do not."""
    u = displacement((5, 6, 7), dtype=torch.float32).requires_grad_()
    labels, features = torch.zeros(2, 1, 5, 6, 7, dtype=torch.uint8), randn(2, 2, 5, 6, 7, dtype=torch.float32).requires_grad_()
    results = [
        ops.warp(features, u, mode="nearest"),
        ops.warp_labels(labels, u),
        ops.warp_labels(labels, u, mode="majority"),
        *ops.warp_affine(features, torch.eye(3, 4, requires_grad=True), labels=labels),
        ops.invert(u),
        *ops.jacobian_summary(u),
        ops.best_displacement(features, features, torch.ones(2, 4, 3), search_radius=1),
    ]
    assert not any(result.requires_grad for result in results)
