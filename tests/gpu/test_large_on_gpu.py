"""Tensors of more than 2^31 elements on a GPU: the far corner of results and gradients is what the reference makes of that corner alone."""

import fcntl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from regkit import ops
from tests.gpu.calls import DEVICE, ELEMENTS
from tests.ops.compare import assert_close

pytestmark = pytest.mark.gpu

MEMORY = 90e9  # bytes that the largest case may take
HALF, FLOAT = torch.float16, torch.float32
CORNER = 24  # voxels along an axis of the first tensor


@pytest.fixture(autouse=True)
def gpu_to_itself():
    """Processes that share the GPU run these tests one after the other."""
    with open(Path(tempfile.gettempdir()) / "regkit-large-tensors.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (free := torch.cuda.mem_get_info()[0]) < MEMORY:
            pytest.skip(f"needs {MEMORY / 1e9:.0f} GB of GPU memory, of which {free / 1e9:.0f} GB are free")
        yield
        torch.cuda.empty_cache()


def side_of(per_voxel: int) -> int:
    """Voxels along an axis of an image that has more than 2^31 numbers with this many a voxel."""
    return int((ELEMENTS / per_voxel) ** (1 / 3)) + 1


def uniform(channels: int, dtype: torch.dtype, size: float = 1.0, per_voxel: int | None = None) -> torch.Tensor:
    """(1, channels, n, n, n) numbers within `size`; per_voxel: numbers a voxel, by default channels, of the largest tensor."""
    n = side_of(per_voxel or channels)
    shape = (1, channels, n, n, n)
    generator = torch.Generator(DEVICE).manual_seed(int(10 * size))
    return torch.empty(shape, dtype=dtype, device=DEVICE).uniform_(-size, size, generator=generator)


def displacement(per_voxel: int = 3) -> torch.Tensor:
    """Up to 1.9 voxels; no sample is near a voxel centre, where float32 coordinates of 900 and of 20 may fall on different sides."""
    u = uniform(3, HALF, 1.9, per_voxel)
    return u.floor().add_(0.05).add_(u.sub_(u.floor()), alpha=0.9)


def labels() -> torch.Tensor:
    n = side_of(1)
    return torch.randint(0, 9, (1, 1, n, n, n), dtype=torch.uint8, device=DEVICE)


def points(features: torch.Tensor) -> torch.Tensor:
    """Keypoints close to the far corner of an image."""
    steps = torch.arange(9, device=features.device)[:, None]
    last, cycles = (torch.tensor(x, device=features.device) for x in ([n - 1 for n in features.shape[2:]], (9, 5, 4)))
    return (last - steps % cycles)[None]


def shift(a: torch.Tensor) -> torch.Tensor:
    """A matrix: not of whole voxels, so that no two are equally near."""
    return torch.tensor([[1, 0, 0, -0.4], [0, 1, 0, 1.3], [0, 0, 1, -2.2]], device=a.device)


def doubled(a: torch.Tensor) -> torch.Tensor:
    return ops.upsample(a, [2 * n for n in a.shape[2:]], 2.0)


@dataclass(frozen=True)
class Large:
    """function of tensors(), differentiated by all after the first `constants`; nothing depends on voxels further away than `reach`."""

    function: Callable
    tensors: Callable[[], tuple[torch.Tensor, ...]]
    reach: int
    constants: int = 0


LARGE = {
    "warp": Large(lambda a, u: ops.warp(a, u), lambda: (uniform(3, HALF), displacement()), 4),
    "compose": Large(ops.compose, lambda: (displacement(), uniform(3, HALF)), 4),
    "integrate_velocity": Large(lambda u: ops.integrate_velocity(u, steps=2), lambda: (uniform(3, HALF),), 6),
    "lncc map": Large(lambda a, b: ops.lncc(a, b, window=3, reduction="none"), lambda: (uniform(1, HALF), uniform(1, HALF, 2.0)), 4),
    "lncc mean": Large(lambda a, b: ops.lncc(a, b, window=3), lambda: (uniform(1, HALF), uniform(1, HALF, 2.0)), 4),
    "warp_lncc": Large(
        lambda a, b, u: ops.warp_lncc(a, b, u, window=3),
        lambda: (uniform(1, HALF, per_voxel=3), uniform(1, HALF, 2.0, per_voxel=3), displacement()), 6, 2,
    ),
    "jacobian_determinant": Large(ops.jacobian_determinant, lambda: (uniform(3, FLOAT),), 3),
    "diffusion_energy": Large(lambda u: ops.diffusion_energy(u), lambda: (uniform(3, FLOAT),), 3),
    "bending_energy": Large(lambda u: ops.bending_energy(u), lambda: (uniform(3, FLOAT),), 5),
    "smooth": Large(lambda u: ops.smooth(u), lambda: (uniform(3, FLOAT),), 3),
    "upsample": Large(doubled, lambda: (uniform(3, HALF, per_voxel=24),), 3),
    "mind_ssc": Large(lambda a: ops.mind_ssc(a), lambda: (uniform(1, FLOAT, per_voxel=12),), 9),
    "correlate_dense": Large(
        lambda a, b: ops.correlate_dense(a, b, radius=1),
        lambda: (uniform(2, HALF, per_voxel=27), uniform(2, HALF, 2.0, per_voxel=27)), 3,
    ),
    "correlate_keypoints": Large(
        lambda a, b: ops.correlate_keypoints(a, b, points(a), search_radius=2, patch_radius=1, metric="cosine"),
        lambda: (uniform(12, HALF), uniform(12, HALF, 1.5)), 0,
    ),
    "expected_displacement": Large(
        lambda a, b: ops.expected_displacement(a, b, points(a), search_radius=2, sharpness=1.0),
        lambda: (uniform(12, HALF), uniform(12, HALF, 1.5)), 0,
    ),
    "warp_labels": Large(
        lambda a, u: ops.warp_labels(a, u, mode="majority"), lambda: (labels(), displacement(1)), 4, 2
    ),
    "warp_affine": Large(lambda a: ops.warp_affine(a, shift(a)), lambda: (uniform(1, HALF),), 4, 1),
    "warp_affine_nearest": Large(lambda a: ops.warp_affine(a[:, :0].half(), shift(a), labels=a)[1], lambda: (labels(),), 4, 1),
    "warp_nearest": Large(lambda a, u: ops.warp(a, u, mode="nearest"), lambda: (labels(), displacement(1)), 4, 2),
}  # fmt: skip


TOLERANCE = {"integrate_velocity": 5e-2}  # its later steps do sample near voxel centres, where gradients jump


def corner(x: torch.Tensor, voxels: int) -> torch.Tensor:
    """The last voxels of each axis of an image; what is not an image whole."""
    return x[..., -voxels:, -voxels:, -voxels:] if x.dim() == 5 else x


def results(large: Large, tensors: tuple[torch.Tensor, ...], weight: torch.Tensor | None) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """The value and the gradients of its product with weight (None: with random numbers, or a scalar's with the number of elements)."""
    for leaf in tensors[large.constants :]:
        leaf.requires_grad_()
    value = large.function(*tensors)
    if not value.requires_grad:
        return [value], None
    if not value.dim():
        weight = torch.full_like(value, tensors[0].numel())
    elif weight is None:
        weight = torch.empty_like(value).uniform_(-1, 1)
    return [value.detach(), *torch.autograd.grad(value, tensors[large.constants :], weight)], weight


@pytest.mark.parametrize("name", LARGE)
def test_far_corner(name):
    large = LARGE[name]
    tensors = large.tensors()
    side = tensors[0].shape[-1]

    def corners(of, margin=0):
        return [corner(x, (CORNER - margin) * x.shape[-1] // side if x.dim() == 5 else 0).detach().cpu() for x in of]

    got, weight = results(large, tensors, None)
    assert max(x.numel() for x in (*tensors, *got)) > ELEMENTS
    small = tuple(x.double() if x.is_floating_point() else x for x in corners(tensors))
    with ops.backend("reference"):
        want, _ = results(large, small, None if weight is None else corners([weight])[0].double())
    is_mean = want[0].dim() == 0
    for number, (x, y) in enumerate(zip(corners(got, large.reach), want, strict=True)):
        y = corner(y, x.shape[-1]) if x.dim() else y
        if not x.is_floating_point():
            assert (x != y).double().mean() < 2e-3, f"{name}: labels"
        elif is_mean:  # over another number of voxels, and of other ones: its gradient in the corner is the same but for a factor
            if number:
                assert_close(f"{name}, gradient {number}", *(z.double() / z.double().square().mean().sqrt() for z in (x, y)), 2e-3)
        else:
            tolerance = TOLERANCE.get(name, 2e-3 if HALF in (t.dtype for t in tensors) else 1e-4)
            assert_close(f"{name}, {f'gradient {number}' if number else 'value'}", x, y, tolerance)


def test_a_map_of_many_keypoints():
    """The similarity map alone has more than 2^31 numbers."""
    radius, few = 15, 40
    side = (2 * radius + 1) ** 3
    features = [torch.randn(1, 2, 40, 40, 40, device=DEVICE, dtype=HALF, generator=torch.Generator(DEVICE).manual_seed(i)) for i in (0, 1)]
    keypoints = torch.randint(0, 40, (1, ELEMENTS // side + few, 3), device=DEVICE)
    got = ops.correlate_keypoints(*features, keypoints, search_radius=radius)
    assert got.numel() > ELEMENTS
    with ops.backend("reference"):
        want = ops.correlate_keypoints(*(f.double().cpu() for f in features), keypoints[:, -few:].cpu(), search_radius=radius)
    assert_close("similarities of the last keypoints", got[:, -few:].cpu(), want, 2e-3)
