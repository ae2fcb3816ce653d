"""The weights that regkit brings: complete, licensed, and good for more than the scans that they were trained on."""

from dataclasses import replace

import numpy as np
import pytest

import regkit
from regkit.data import phantom
from regkit.geometry import Image, resample
from regkit.metrics import dice, tre
from regkit.models.weights import find, load_model, shipped
from regkit.registration import PRESETS

MAX_MB = 16


def hippocampus(seed: int) -> tuple[Image, Image]:
    """A made scan of 1 mm: an ellipsoid of two labels, front and back, brighter than what is around it."""
    random, shape = np.random.default_rng(seed), (36, 50, 36)
    center = np.array(shape) / 2 + random.uniform(-2, 2, 3)
    radii = np.array([6.0, 16.0, 6.0]) * random.uniform(0.85, 1.15, 3)
    place = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    inside = (((place - center) / radii) ** 2).sum(-1) < 1
    labels = np.where(inside, np.where(place[..., 1] > center[1], 1, 2), 0).astype(np.uint8)
    image = 40 + 100 * inside + 10 * random.standard_normal(shape)
    return Image.from_array(image.astype(np.float32)), Image.from_array(labels)


def test_all_are_there():
    assert sorted(shipped()) == ["graphregnet-lung", "hippocampus", "mind-features"]


@pytest.mark.parametrize("name", sorted(shipped()))
def test_it_says_what_it_is_and_may_be_shared(name):
    network, card = load_model(name)
    assert card.name == name and card.description and card.data
    told = card.metrics
    good = {
        "feature-network": lambda: told["mse"] < 0.25 * told["variance"],
        "graphregnet": lambda: told["error_mm"] < 0.3 * told["motion_mm"],
        "lapirn": lambda: told["dice"] > 0.5,
    }
    assert good[card.network]()
    assert "Apache-2.0" in card.licence or ("CC BY" in card.licence and "NC" not in card.licence)
    assert all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())
    assert find(name).stat().st_size < MAX_MB * 1e6


def test_the_hippocampus_model_aligns_what_it_has_never_seen():
    (fixed, fixed_labels), (moving, moving_labels) = hippocampus(0), hippocampus(10)
    result = regkit.register(fixed, moving, model="hippocampus", threads=1)
    before = dice(fixed_labels, resample(moving_labels, fixed_labels.grid, result.transform.parts[0], labels=True))
    after = dice(fixed_labels, result.warp(moving_labels, labels=True))
    assert np.mean(list(before.values())) < 0.6 < 0.75 < np.mean(list(after.values()))
    assert result.record.metrics["jacobian"]["folds"] == 0


def test_graphregnet_finds_the_breath_of_a_thorax_that_it_has_never_seen():
    """The network alone, after the affine and without refinement."""
    made = phantom((84, 70, 80), spacing=(4.0, 4.0, 4.0), motion_mm=20, landmarks=100, seed=5)
    config = replace(PRESETS["ct-lung"], spacing_mm=4.0)
    masks = {"fixed_mask": made.fixed_mask, "moving_mask": made.moving_mask}
    found = regkit.register(made.fixed, made.moving, **masks, config=config, model="graphregnet-lung", threads=1).transform
    affine, all_of_it = (tre(part.apply(made.fixed_points.coordinates), made.moving_points) for part in (found.parts[0], found))
    assert all_of_it.mean() < 0.85 * affine.mean()
