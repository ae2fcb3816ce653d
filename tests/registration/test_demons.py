"""Demons: the force is the formula, updates stay short, a known motion is found without folds, and several channels are one force."""

from dataclasses import replace

import pytest
import torch

from regkit import ops, register
from regkit.errors import UsageError
from regkit.features.gradient import gradient
from regkit.geometry import Composite
from regkit.registration.config import PRESETS, Config, RefineStage
from regkit.registration.demons import demons_update, force
from tests.ops.cases import randn
from tests.registration.anatomy import grid_at, make_pair, wave


def test_force_is_the_formula():
    difference, slopes = randn(1, 2, 4, 5), randn(1, 2, 2, 4, 5, seed=1)
    difference[..., 0] = 0
    slopes[..., 0] = 0  # nothing to follow
    found = force(difference, slopes, step=1.5)
    for j in range(4):
        for k in range(1, 5):
            d, s = difference[0, :, j, k], slopes[0, :, :, j, k]
            want = (d[:, None] * s).sum(0) / (s.square().sum() + d.square().sum() / 1.5**2)
            torch.testing.assert_close(found[0, :, j, k], want)
    assert (found[..., 0] == 0).all()


@pytest.mark.parametrize("contrast", [0.01, 1.0, 100.0])
def test_updates_are_no_longer_than_half_a_step(contrast):
    difference, slopes = contrast * randn(1, 1, 30, 30, 30), randn(1, 1, 3, 30, 30, 30, seed=1)
    assert force(difference, slopes, step=2.0).norm(dim=1).max() <= 1.0 + 1e-9


def test_gradient_of_a_plane():
    i, j = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
    found = gradient((2 * i - 3 * j)[None, None])
    assert (found[0, 0, 0, 1:-1] == 2).all() and (found[0, 0, 1, :, 1:-1] == -3).all()
    assert (found[0, 0, 0, 0] == 1).all()  # half of it at the border, which is repeated


def test_channels_without_contrast_change_nothing():
    image, moving = (ops.smooth(ops.smooth(randn(1, 1, 20, 22, seed=seed, dtype=torch.float32))) for seed in (0, 1))
    flat = torch.full_like(image, 0.5)
    u = torch.zeros(1, 2, 20, 22)
    alone, _ = demons_update(image, moving, gradient(image), u, step=2.0, smoothing=2)
    pair = torch.cat([image, flat], 1), torch.cat([moving, flat], 1)
    both, _ = demons_update(*pair, gradient(pair[0]), u, step=2.0, smoothing=2)
    torch.testing.assert_close(both, alone)
    nothing, loss = demons_update(image, moving, gradient(image), u, torch.zeros(1, 1, 20, 22), step=2.0, smoothing=2)
    assert (nothing == 0).all() and loss == 0


def test_the_motion_is_found_without_folds():
    grid = grid_at((36, 32, 30), 2.8)
    pair = make_pair(grid, grid_at((34, 34, 32), 2.9, (4, 3, -5)), Composite([wave(grid, 5.0)]))
    config = replace(PRESETS["demons"], refine=replace(PRESETS["demons"].refine, iterations=(60, 60, 30)))
    result = register(pair.fixed, pair.moving, config=config, device="cpu")
    assert pair.error(result.transform) < 0.35 * pair.start
    assert result.record.metrics["jacobian"]["folds"] == 0
    curve = result.record.curves["refine, level 1"]
    assert len(curve) == 60 and curve[-1] < 0.5 * curve[0]


@pytest.mark.parametrize("other", [{"similarity": "mind"}, {"diffeomorphic": True}])
def test_what_demons_cannot_be_told(other):
    with pytest.raises(UsageError, match="refine.method demons compares intensities"):
        Config(refine=RefineStage(method="demons", **other))
