"""The affine stage finds large turns and shifts between scans of different grids, from starts that need no overlap."""

import numpy as np
import pytest

from regkit.geometry import Affine, Image
from regkit.registration import affine
from regkit.registration.affine import mass_center, register_affine, starts
from regkit.registration.config import PRESETS, AffineStage, Config
from regkit.registration.prepare import Scan, normalise, working_grid
from regkit.registration.progress import silent
from tests.registration.anatomy import Anatomy, Pair, affine_about, grid_at, make_pair, shifted

SHAPES = {
    "fixed": grid_at((40, 36, 24), (2.4, 2.2, 4.0), (20, -10, 35), (2, 1, -3)),
    "moving": grid_at((46, 30, 40), (2.0, 2.8, 2.4), (-15, 25, -20)),
}


def find(pair: Pair, config: Config = Config()) -> tuple[Affine, str, list[float]]:
    fixed, moving = (Scan(normalise(scan, config.intensity), None) for scan in (pair.fixed, pair.moving))
    return register_affine(fixed, moving, working_grid(fixed, config), config, silent)


def ready(scan: Image) -> Scan:
    return Scan(normalise(scan, Config().intensity), None)


@pytest.fixture(scope="module")
def turned() -> Pair:
    """Both oblique and anisotropic, turned by up to 14 degrees, 12 mm apart."""
    return make_pair(SHAPES["fixed"], SHAPES["moving"], affine_about((12, -8, 14), 1.06, (8.0, -7.0, 6.0)))


@pytest.mark.parametrize("preset", ["generic", "multimodal"])
def test_a_known_affine_is_found(turned, preset):
    found, start, curve = find(turned, PRESETS[preset])
    assert turned.start > 12 and turned.error(found) < 0.6
    stage = PRESETS[preset].affine
    assert start.startswith("mass centres") and len(curve) == sum(stage.iterations) and curve[stage.iterations[0] - 1] < curve[0]


def test_other_contrasts_are_aligned_by_mutual_information(turned):
    """Air stays dark, the rest is inverted and squeezed: local NCC finds no hold here."""
    random = np.random.default_rng(3)
    plain = Anatomy().scan(turned.moving.grid, noise=0.0).data
    other = np.where(plain < 60, plain, 900 - plain) * np.where(plain > 450, 0.6, 1.0) + 4 * random.normal(size=plain.shape)
    pair = Pair(turned.fixed, Image(other.astype(np.float32), turned.moving.grid), turned.truth)
    assert pair.error(find(pair, PRESETS["multimodal"])[0]) < 1.2


def test_2d(pair2d):
    found, *_ = find(pair2d, PRESETS["xray"])
    assert pair2d.start > 4.5 and pair2d.error(found) < 1.2  # 2.5 pixels of it are no affine


def test_scans_without_overlap_start_from_their_centres(turned):
    far = np.eye(4)
    far[:3, 3] = 900, -500, 300
    pair = Pair(turned.fixed, shifted(turned.moving, far), Affine(far) @ turned.truth)
    assert pair.fixed.grid.overlap(pair.moving.grid) == 0
    found, start, _ = find(pair)
    assert start != "header" and pair.error(found) < 0.6


def test_only_the_header_when_told(turned):
    config = Config(affine=AffineStage(starts="header", enabled=False))
    found, start, losses = find(turned, config)
    assert start == "header" and len(losses) == 1
    np.testing.assert_array_equal(found.matrix, np.eye(4))
    assert [s.name for s in starts(ready(turned.fixed), ready(turned.moving), "header")] == ["header"]


def test_a_good_header_is_kept():
    pair = make_pair(SHAPES["fixed"], SHAPES["moving"], Affine.identity(3))
    assert pair.error(find(pair)[0]) < 0.3


def test_without_optimisation_the_best_start_is_taken(turned):
    far = np.eye(4)
    far[:3, 3] = 60, 0, 0
    pair = Pair(turned.fixed, shifted(turned.moving, far), Affine(far) @ turned.truth)
    found, start, _ = find(pair, Config(affine=AffineStage(enabled=False)))
    assert start != "header" and pair.error(found) < 12 < 60 < pair.start


def test_mass_center_is_of_the_mask_if_there_is_one():
    data, inside = np.zeros((20, 20, 20), np.float32), np.zeros((20, 20, 20), np.uint8)
    data[2:5, 2:5, 2:5], inside[14:17, 10, 12] = 1.0, 1
    grid = grid_at((20, 20, 20), (1.0, 2.0, 3.0))
    np.testing.assert_allclose(mass_center(Scan(Image(data, grid), None)), grid.to_world(np.array([[3, 3, 3]]))[0])
    np.testing.assert_allclose(mass_center(Scan(Image(data, grid), Image(inside, grid))), grid.to_world(np.array([[15, 10, 12]]))[0])


def test_the_curve_is_that_of_the_start_that_won(monkeypatch, turned):
    """Two finalists go on: the one that looked worse after the screening may end better, and its losses are the ones to show."""

    def descend(level, start, parameters, place, iterations, step):
        screening, first = iterations == affine.SCREENED, start.name == "header"
        loss = (0.1 if first else 0.2) if screening else (0.9 if first else 0.3)
        return affine._Descent(parameters, loss, [loss] * iterations)

    monkeypatch.setattr(affine, "_descend", descend)
    monkeypatch.setattr(affine, "starts", lambda *_: [affine.Start("header", np.eye(4)), affine.Start("centres", np.eye(4))])
    _, start, curve = find(turned)
    assert start == "centres" and curve == [0.3] * sum(Config().affine.iterations)
