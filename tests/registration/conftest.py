"""Pairs that several tests register."""

import numpy as np
import pytest

from regkit.geometry import Affine, Composite, Grid
from tests.registration.anatomy import Anatomy, Pair, affine_about, grid_at, make_pair, shifted, wave


@pytest.fixture(scope="session")
def oblique_pair() -> Pair:
    """Oblique, anisotropic and off the origin, different grids: a turn, a shift and a smooth motion of 4 mm."""
    fixed = grid_at((44, 38, 26), (2.2, 2.0, 3.6), (25, -14, 40), (3, -2, 4))
    moving = grid_at((40, 42, 36), (2.5, 1.9, 2.6), (-8, 20, -30), (1, 5, -2))
    truth = Composite([affine_about((5, -4, 6), 1.03, (3.0, -5.0, 4.0)), wave(fixed, 3.0)])
    # the anatomy is at the world's origin; the scans are taken 60, -140 and 220 mm from it
    far = np.eye(4)
    far[:3, 3] = 60, -140, 220
    pair = make_pair(fixed, moving, truth)
    return Pair(shifted(pair.fixed, far), shifted(pair.moving, far), Composite([Affine(far), *truth.parts, Affine(far).inverse()]))


@pytest.fixture(scope="session")
def pair2d() -> Pair:
    """96 x 80 pixels, 8 bits, no world to speak of."""
    fixed, moving = Grid.from_spacing((96, 80)), Grid.from_spacing((90, 88))
    middle = fixed.center
    anatomy = Anatomy(2, size=34, lumps=40, contrast=110)
    centred = np.eye(3)
    centred[:2, 2] = -middle
    truth = Composite([affine_about([7], 1.04, (3.0, 4.0), middle), wave(fixed, 2.5)])
    place = Affine(centred)
    return Pair(
        anatomy.scan(fixed, Composite([place, *truth.parts]), dtype=np.uint8, seed=1, name="fixed"),
        anatomy.scan(moving, place, dtype=np.uint8, seed=2, name="moving"),
        truth,
    )
