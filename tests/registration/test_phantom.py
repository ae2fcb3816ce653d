"""The made thorax, small: landmarks come within a fraction of a voxel, with every preset that is for 3-D and with masks."""

import pytest

from regkit.data import phantom
from regkit.registration import register


@pytest.fixture(scope="module")
def pair():
    return phantom((64, 56, 56), landmarks=60)


@pytest.mark.parametrize(
    ("preset", "masks", "mm"),
    [
        ("ct-lung", False, 1.5),
        ("ct-lung", True, 1.5),
        ("generic", False, 2.5),
        ("generic", True, 4.0),
        ("ct-abdomen", False, 3.0),
        ("ct-abdomen", True, 5.0),
        ("mr-brain", False, 2.5),
        ("multimodal", False, 3.0),
    ],
)
def test_landmarks(pair, preset, masks, mm):
    options = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask} if masks else {}
    result = register(pair.fixed, pair.moving, preset=preset, **options)
    found = result.evaluate(fixed_points=pair.fixed_points, moving_points=pair.moving_points)
    assert found["tre_mm"]["before"]["mean"] > 12 and found["tre_mm"]["after"]["mean"] < mm  # voxels are 5 mm
    assert found["folds"] == 0


def test_a_diffeomorphic_field(pair):
    from dataclasses import replace

    from regkit.registration import PRESETS

    config = replace(PRESETS["ct-lung"], refine=replace(PRESETS["ct-lung"].refine, diffeomorphic=True, remove_folds=False))
    result = register(pair.fixed, pair.moving, config=config)
    found = result.evaluate(fixed_points=pair.fixed_points, moving_points=pair.moving_points)
    assert found["tre_mm"]["after"]["mean"] < 2.0 and found["folds"] == 0
