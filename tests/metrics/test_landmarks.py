import numpy as np
import pytest

from regkit.errors import InputError
from regkit.geometry import Grid, Points
from regkit.metrics import tre, tre_snapped, tre_summary


def test_tre_is_the_distance_of_each_pair():
    a = np.array([[0.0, 0, 0], [1, 2, 3]])
    b = np.array([[3.0, 4, 0], [1, 2, 5]])
    assert tre(a, b).tolist() == [5, 2]
    assert tre(Points(a), Points(b)).tolist() == [5, 2]


def test_summary():
    found = tre_summary(np.arange(101.0))
    assert found == {"n": 101, "mean": 50, "std": pytest.approx(np.sqrt(850)), "median": 50, "p25": 25, "p75": 75, "p95": 95, "max": 100}
    assert tre_summary(np.empty(0))["n"] == 0 and np.isnan(tre_summary(np.empty(0))["mean"])


def test_lists_must_match():
    with pytest.raises(InputError, match=r"\(2, 3\) and \(3, 3\)"):
        tre(np.zeros((2, 3)), np.zeros((3, 3)))


def test_snapped_to_the_targets_voxels():
    grid = Grid.from_spacing((10, 10, 10), (1.0, 1.0, 2.5))
    errors = tre_snapped([[1.4, 2.6, 5.1], [3.5, 0.0, 6.3]], [[1.0, 3.0, 5.0], [3.0, 0.0, 7.5]], grid)
    assert errors.tolist() == pytest.approx([0.0, 1.0])  # halves round up
