"""The deformable stage: its loss falls, its field is the motion, and a velocity field does not fold."""

import pytest
import torch

from regkit import ops
from regkit.geometry import Affine, Composite
from regkit.registration.config import Config, Intensity, RefineStage
from regkit.registration.field import transforms
from regkit.registration.prepare import Scan, normalise, working_grid
from regkit.registration.refine import exponential, refine, resize
from tests.registration.anatomy import Pair, grid_at, make_pair, wave

LEVELS = {"shrink": (2.0, 1.0), "iterations": (40, 30), "window": (5, 5), "smoothness": (1.0, 1.0), "step": (0.2, 0.1)}


@pytest.fixture(scope="module")
def pair() -> Pair:
    grid = grid_at((36, 32, 30), 2.8)
    return make_pair(grid, grid_at((34, 34, 32), 2.9, (4, 3, -5)), Composite([wave(grid, 5.0)]))


def run(pair: Pair, stage: RefineStage, start=None):
    config = Config(refine=stage, intensity=Intensity())
    fixed, moving = (Scan(normalise(scan, config.intensity), None) for scan in (pair.fixed, pair.moving))
    grid = working_grid(fixed, config)
    told = []
    u, curves = refine(fixed, moving, grid, Affine.identity(3), start, config, lambda *x: told.append(x))
    return u, curves, grid, told


@pytest.mark.parametrize("similarity", ["lncc", "mind"])
@pytest.mark.parametrize("diffeomorphic", [False, True])
def test_the_motion_is_found(pair, similarity, diffeomorphic):
    u, curves, grid, told = run(pair, RefineStage(similarity=similarity, diffeomorphic=diffeomorphic, **LEVELS))
    assert u.shape == (1, 3, *grid.shape) and not u.requires_grad
    assert [len(curve) for curve in curves.values()] == [40, 30]
    assert all(curve[-1] < 0.9 * curve[0] for curve in list(curves.values())[:1]) and told[-1][:2] == ("refine", 1.0)
    forward, _ = transforms(u, grid, Affine.identity(3))
    assert pair.error(forward) < 0.35 * pair.start
    if diffeomorphic:
        assert (ops.jacobian_determinant(u) > 0).all()


def test_velocities_do_not_fold_where_displacements_do(pair):
    loose = {**LEVELS, "smoothness": (0.02, 0.02), "smoothing": 0}
    folded, *_ = run(pair, RefineStage(**loose))
    straight, *_ = run(pair, RefineStage(diffeomorphic=True, **loose))
    share = [float((ops.jacobian_determinant(u) <= 0).float().mean()) for u in (folded, straight)]
    assert share[0] > 1e-3 and share[1] < 0.1 * share[0]


def test_a_start_is_gone_on_from(pair):
    stage = RefineStage(**{**LEVELS, "iterations": (0, 0)})
    _, _, grid, _ = run(pair, stage)
    start = torch.ones(1, 3, *grid.shape)
    u, *_ = run(pair, stage, start)
    torch.testing.assert_close(u, start, rtol=0.1, atol=0)


def test_resize_follows_the_voxel_size():
    u = torch.ones(1, 2, 10, 20)
    found = resize(u, (20, 30))
    assert (found[:, 0] == 2).all() and (found[:, 1] == 1.5).all()
    assert resize(u, (10, 20)) is u


def test_exponential_of_a_constant_and_its_inverse():
    v = torch.full((1, 3, 12, 12, 12), 2.0)
    torch.testing.assert_close(exponential(v), v)
    index = torch.arange(24.0)
    wave_ = (2.0 * torch.sin(index / 4)).reshape(1, 1, 24, 1).expand(1, 2, 24, 24).contiguous()
    there_and_back = ops.compose(exponential(wave_), exponential(-wave_))
    assert there_and_back[..., 4:-4, 4:-4].abs().max() < 0.05 < exponential(wave_).abs().max()
