"""Learn2Reg's measures against the formulas in plain numpy and loops."""

import numpy as np
import pytest

from regkit.errors import InputError
from regkit.metrics.learn2reg import dice_learn2reg, hd95_learn2reg, jacobian_learn2reg, tre_learn2reg, warp_learn2reg

SHAPE = (9, 8, 10)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_warp_takes_the_nearest_voxel_and_nothing_beyond_the_outermost_centres(random):
    moving = random.integers(1, 5, SHAPE)
    field = random.uniform(-3, 3, (*SHAPE, 3))
    field[0, 0, 0] = (-0.3, 0, 0)  # inside the voxel, outside its centre: 0
    field[2, 2, 2] = (0.5, 0, 0)  # halfway: the upper one
    expected = np.zeros(SHAPE, int)
    for at in np.ndindex(SHAPE):
        place = np.array(at) + field[at]
        if (place >= 0).all() and (place <= np.array(SHAPE) - 1).all():
            expected[at] = moving[tuple(np.floor(place + 0.5).astype(int))]
    found = warp_learn2reg(moving, field)
    assert found[0, 0, 0] == 0 and found[2, 2, 2] == moving[3, 2, 2]
    np.testing.assert_array_equal(found, expected)


def test_dice_and_hd95_of_absent_labels(random):
    fixed, moving, moved = random.integers(1, 4, (3, *SHAPE))
    fixed[fixed == 3] = 1  # 3 is absent in the fixed map
    moving[moving == 2] = 1  # 2 in the moving map, though the moved one has it
    fixed[0, 0, :2], moving[5, 5, 5] = 4, 4  # 4 is lost in warping
    found = dice_learn2reg(fixed, moving, moved, [1, 2, 3, 4, 5])
    overlap = ((fixed == 1) & (moved == 1)).sum()
    assert found[0] == pytest.approx(2 * overlap / ((fixed == 1).sum() + (moved == 1).sum()))
    assert np.isnan(found[1:3]).all() and found[3] == 0 and np.isnan(found[4])
    found = hd95_learn2reg(fixed, moving, moved, [1, 2, 3, 4, 5])
    assert np.isfinite(found[0]) and np.isnan(found[1:3]).all() and found[3] == np.inf and np.isnan(found[4])


def logs(field):
    """J + 3, clipped, by the formula: central differences, two voxels left out on each side."""
    for at in np.ndindex(*(n - 4 for n in field.shape[:3])):
        at = np.add(at, 2)
        jacobian = np.eye(3)
        for axis, step in enumerate(np.eye(3, dtype=int)):
            jacobian[:, axis] += (field[tuple(at + step)] - field[tuple(at - step)]) / 2
        yield tuple(at), np.log(np.clip(np.linalg.det(jacobian) + 3, 1e-9, 1e9))


def test_sdlogj_is_shifted_and_masked(random):
    field = random.normal(0, 1.5, (*SHAPE, 3))
    values = dict(logs(field))
    assert jacobian_learn2reg(field)["sdlogj_learn2reg"] == pytest.approx(np.std(list(values.values())), abs=1e-12)
    mask = random.integers(0, 3, SHAPE)  # 2 does not count
    chosen = [value for at, value in values.items() if mask[at] == 1]
    found = jacobian_learn2reg(field, mask)
    assert found["sdlogj_learn2reg"] == pytest.approx(np.std(chosen), abs=1e-12)
    gradient = np.stack([np.stack(np.gradient(field[..., c], axis=(0, 1, 2)), -1) for c in range(3)], -2)
    determinant = np.linalg.det(gradient + np.eye(3))[mask == 1]
    assert found["folds"] == pytest.approx((determinant <= 0).mean())
    assert found["sdlogj"] == pytest.approx(np.std(np.log(determinant[determinant > 0])), abs=1e-9)


def test_a_fold_that_the_shift_hides():
    """u = -1.5 x turns space over: J = -0.5 everywhere, and the shifted figure says that all is smooth."""
    field = np.zeros((10, 10, 10, 3))
    field[..., 0] = -1.5 * np.arange(10)[:, None, None]
    found = jacobian_learn2reg(field)
    assert found["sdlogj_learn2reg"] == pytest.approx(0, abs=1e-12)
    assert found["folds"] == 1 and np.isnan(found["sdlogj"])


def test_tre_by_cubic_splines(random):
    """u along x is a cubic in y, which splines follow inside and lines do not; spacing is the moving scan's."""
    n = 40
    y = np.arange(n, dtype=float)
    cubic = ((y - 20) / 10) ** 3
    field = np.zeros((6, n, 6, 3))
    field[..., 0] = cubic[:, None]
    fixed = np.column_stack([random.uniform(1, 4, 20), random.uniform(15, 25, 20), random.uniform(1, 4, 20)])
    exact = ((fixed[:, 1] - 20) / 10) ** 3
    offset = np.array([0.5, -1.0, 2.0])
    moving = fixed + np.column_stack([exact, 0 * exact, 0 * exact]) - offset
    expected = np.linalg.norm(offset * (1.5, 2, 3))
    np.testing.assert_allclose(tre_learn2reg(fixed, moving, field, (1.5, 2, 3)), expected, atol=1e-4)
    linear = np.interp(fixed[:, 1], y, cubic) - exact + offset[0]
    expected = np.linalg.norm(np.column_stack([linear, 0 * linear + offset[1], 0 * linear + offset[2]]) * (1.5, 2, 3), axis=1)
    np.testing.assert_allclose(tre_learn2reg(fixed, moving, field, (1.5, 2, 3), order=1), expected, atol=1e-12)


def test_tre_beyond_the_outermost_centres():
    field = np.full((5, 5, 5, 3), 2.0)
    point = np.array([[-0.3, 2.0, 2.0]])
    assert tre_learn2reg(point, point, field, (1, 1, 1))[0] == 0  # no displacement there
    assert tre_learn2reg(point, point, field, (1, 1, 1), order=1)[0] == pytest.approx(np.sqrt(12))


def test_landmarks_that_do_not_match():
    with pytest.raises(InputError, match="same landmarks"):
        tre_learn2reg(np.zeros((3, 3)), np.zeros((4, 3)), np.zeros((4, 4, 4, 3)), (1, 1, 1))
