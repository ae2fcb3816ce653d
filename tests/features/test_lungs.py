"""Lungs by grey values."""

import numpy as np
import pytest

from regkit.data import phantom
from regkit.errors import InputError
from regkit.features import lung_mask
from regkit.geometry import Grid, Image


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_lungs_of_a_thorax(axes):
    """Vessels are inside; whatever the order of the axes."""
    made = phantom((72, 60, 64), landmarks=5)
    scan, want = (np.transpose(image.data, axes) for image in (made.fixed, made.fixed_mask))
    affine = made.fixed.grid.affine.copy()
    affine[:3, :3] = affine[:3, list(axes)]
    got = lung_mask(Image(scan, Grid(scan.shape, affine)))
    assert got.data.dtype == np.uint8 and overlap(got.data > 0, want > 0) > 0.97


def test_lungs_that_end_with_the_volume():
    """Slices through the middle of the lungs: no edge above and below."""
    made = phantom((72, 60, 64), landmarks=5)
    got = lung_mask(Image(made.fixed.data[:, :, 24:40], made.fixed.grid.crop((0, 0, 24), (72, 60, 40))))
    assert overlap(got.data > 0, made.fixed_mask.data[:, :, 24:40] > 0) > 0.97


def test_no_lungs():
    with pytest.raises(InputError, match="no lungs found"):
        lung_mask(Image(np.zeros((8, 8, 8), np.float32), Grid.from_spacing((8, 8, 8), 5.0)))
    with pytest.raises(InputError, match="3-D CT"):
        lung_mask(Image(np.zeros((8, 8), np.float32), Grid.from_spacing((8, 8), 5.0)))
