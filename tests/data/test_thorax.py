import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from regkit import ops
from regkit.data import phantom, smooth_random_displacement
from regkit.data.thorax import ORGANS
from regkit.data.thorax.motion import invert
from regkit.data.thorax.trees import Segments, grow_tree
from regkit.data.thorax.tubes import draw_tubes
from regkit.errors import UsageError
from regkit.geometry import read_image, read_points
from regkit.metrics import dice, jacobian_summary, tre

SHAPE = (64, 56, 56)


@pytest.fixture(scope="module")
def pair():
    return phantom(SHAPE, seed=3)


def moved(pair, image, mode="linear"):
    return ops.warp(image.tensor(), pair.displacement, mode=mode, padding="border")[0, 0].numpy()


def test_the_displacement_takes_moving_to_fixed(pair):
    lungs = pair.fixed_mask.data > 0
    before = (pair.moving.data - pair.fixed.data)[lungs].std()
    after = (moved(pair, pair.moving) - pair.fixed.data)[lungs].std()
    assert before > 200 and after < 70
    assert dice(pair.fixed_mask, moved(pair, pair.moving_mask, "nearest"))[1] > 0.96
    overlap = dice(pair.fixed_labels, moved(pair, pair.moving_labels, "nearest"))
    assert set(overlap) == set(ORGANS) and min(overlap.values()) > 0.65


def test_the_displacement_is_large_smooth_and_without_folds(pair):
    length = np.linalg.norm(pair.displacement[0].numpy() * np.reshape(pair.fixed.grid.spacing, (3, 1, 1, 1)), axis=0)
    assert length[pair.fixed_mask.data > 0].max() == pytest.approx(25, rel=0.05)
    summary = jacobian_summary(pair.displacement)
    assert summary["folds"] == 0 and summary["det_min"] > 0.3


def test_landmarks_follow_the_displacement_inside_the_lungs(pair):
    fixed, moving = pair.fixed_points.coordinates, pair.moving_points.coordinates
    assert fixed.shape == moving.shape == (300, 3) and len(np.unique(fixed, axis=0)) == 300
    index = pair.fixed.grid.to_index(fixed)
    u = np.stack([map_coordinates(component, index.T, order=1) for component in pair.displacement[0].numpy()], axis=1)
    np.testing.assert_allclose(pair.fixed.grid.to_index(moving), index + u, atol=1e-3)
    assert 9 < tre(fixed, moving).mean() < 15
    for points, mask in ((fixed, pair.fixed_mask), (moving, pair.moving_mask)):
        nearest = np.rint(mask.grid.to_index(points)).astype(int)
        assert mask.data[tuple(nearest.T)].mean() > 0.97


def test_it_looks_like_ct(pair):
    lungs = pair.fixed_mask.data > 0
    assert -900 < np.median(pair.fixed.data[lungs]) < -750
    assert (pair.fixed.data[lungs] > -500).mean() > 0.03  # vessels
    volume = lungs.sum() * np.prod(pair.fixed.grid.spacing) / 1e6
    assert 3.5 < volume < 7  # litres
    assert (pair.moving_mask.data > 0).sum() < 0.95 * lungs.sum()
    assert pair.fixed.data.dtype == np.float32 and pair.fixed_labels.data.dtype == np.uint8
    assert pair.fixed.grid.orientation == "RAS"


def test_seeds_and_noise():
    one, again, other = (phantom((24, 24, 24), landmarks=10, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.moving.data, again.moving.data)
    np.testing.assert_array_equal(one.fixed_points.coordinates, again.fixed_points.coordinates)
    assert not np.array_equal(one.displacement, other.displacement)
    still = phantom((24, 24, 24), motion_mm=0, noise_hu=30, landmarks=10)
    assert not still.displacement.any()
    assert (still.fixed.data - still.moving.data).std() == pytest.approx(30 * np.sqrt(2), rel=0.05)


def test_spacing_is_kept_and_must_hold_the_landmarks():
    made = phantom((40, 40, 40), spacing=(7.0, 6.0, 5.0), landmarks=20)
    assert made.fixed.grid.spacing == pytest.approx((7.0, 6.0, 5.0))
    np.testing.assert_allclose(made.fixed.grid.center, 0, atol=1e-6)
    with pytest.raises(UsageError, match="landmarks"):
        phantom((24, 24, 24), spacing=5.0, landmarks=5000)
    with pytest.raises(UsageError, match="shows no lung"):
        phantom((20, 20, 20), spacing=0.2)
    with pytest.raises(UsageError, match="at least 16"):
        phantom((64, 64))
    with pytest.raises(UsageError, match="folds"):
        phantom((24, 24, 24), motion_mm=90)


def test_save_writes_what_the_readers_read(pair, tmp_path):
    pair.save(tmp_path / "made")
    for name in ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels"):
        image, made = read_image(tmp_path / "made" / f"{name}.nii.gz"), getattr(pair, name)
        np.testing.assert_array_equal(image.data, made.data)
        assert image.data.dtype == made.data.dtype
        np.testing.assert_allclose(image.grid.affine, made.grid.affine, atol=1e-4)
    for name in ("fixed_points", "moving_points"):
        np.testing.assert_allclose(read_points(tmp_path / "made" / f"{name}.csv").coordinates, getattr(pair, name).coordinates, atol=1e-3)


def test_invert_undoes_a_displacement_and_refuses_folds():
    u = smooth_random_displacement((40, 36, 32), 4.0, 9.0)
    v = invert(u)
    there_and_back = v + ops.warp(u, v, padding="border")
    assert there_and_back.abs().max() < 0.01
    with pytest.raises(ValueError, match="no inverse"):
        invert(smooth_random_displacement((24, 24, 24), 9.0, 2.0))


@pytest.mark.parametrize("radius", [0.4, 1.0, 5.0])
def test_a_tube_covers_its_volume(radius):
    tube = Segments.polyline(np.array([[-40.0, 1.0, -60], [35, 12, 60]]), radius).subdivided(4.0)
    shape, spacing = (60, 50, 80), np.array([2.0, 1.8, 2.2])
    centres = (tube.start + tube.end) / 2
    coverage = draw_tubes(tube, centres, np.ones_like(centres), shape, spacing, edge=2.0)
    volume = float(coverage.sum()) * spacing.prod()
    length = np.linalg.norm(tube.end - tube.start, axis=1).sum()
    # a faint tube keeps at least its own volume; its soft edge adds up to a third
    expected = np.pi * radius**2 * length
    assert 0.9 * expected < volume < 1.45 * expected


def test_an_offset_moves_a_tube():
    tube = Segments.polyline(np.array([[-20.0, 0, 0], [20, 0, 0]]), 3.0).subdivided(4.0)
    shape, spacing = (40, 30, 30), np.array([2.0, 2.0, 2.0])
    centres, ones = (tube.start + tube.end) / 2, np.ones((len(tube.start), 3))
    still = draw_tubes(tube, centres, ones, shape, spacing, 2.0)
    offset = torch.zeros(3, *shape)
    offset[1] = -6.0
    shifted = draw_tubes(tube, centres + [0, 6, 0], ones, shape, spacing, 2.0, offset)
    torch.testing.assert_close(shifted, still.roll(3, dims=1))


def test_a_tree_fills_its_cloud_and_follows_murrays_law():
    rng = np.random.default_rng(0)
    cloud = rng.uniform(0, 60, (400, 3))
    tree = grow_tree(cloud, np.zeros(3), np.ones(3), 6.0, rng)
    ends = tree.segments.end
    nearest = np.sqrt(((cloud[:, None] - ends[None]) ** 2).sum(-1).min(1))
    assert np.median(nearest) < 4
    assert len(tree.branchings) == 399  # a binary tree with one leaf per point
    assert tree.branching_radii.max() == pytest.approx(6.0) and tree.branching_radii.min() == pytest.approx(6.0 * np.cbrt(2 / 400))
