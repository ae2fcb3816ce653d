import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from regkit.geometry import Image
from regkit.metrics import assd, hd95, surface_distances

SPACING = (0.7, 1.0, 2.5)


def surface(mask, spacing):
    return np.argwhere(mask & ~binary_erosion(mask)) * spacing


def by_definition(a, b, spacing):
    between = cdist(surface(a, spacing), surface(b, spacing))
    forth, back = between.min(1), between.min(0)
    return {
        "hd": max(forth.max(), back.max()),
        "hd95": max(np.percentile(forth, 95), np.percentile(back, 95)),
        "assd": np.concatenate([forth, back]).mean(),
        "assd_medpy": (forth.mean() + back.mean()) / 2,
    }


def blobs(shape, seed):
    """Three label regions, one of which touches the border."""
    place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int16)
    for number, centre in ((4, 0.05), (1005, 0.4), (7, 0.75)):
        middle = np.asarray(shape) * centre + rng.uniform(-1, 1, len(shape))
        labels[np.linalg.norm(place - middle, axis=-1) < rng.uniform(3, 4.5)] = number
    return labels


@pytest.mark.parametrize("shape, spacing", [((22, 20, 18), SPACING), ((30, 26), (0.7, 2.0))])
def test_agrees_with_brute_force(shape, spacing):
    a, b = blobs(shape, 0), blobs(shape, 1)
    found = surface_distances(a, b, spacing=spacing)
    assert list(found) == [4, 7, 1005]
    for label, distances in found.items():
        assert distances == pytest.approx(by_definition(a == label, b == label, spacing), rel=1e-5), label


def test_a_shift_is_measured_in_mm():
    a = np.zeros((20, 12, 12), np.uint8)
    a[4:10, 3:9, 3:9] = 1
    b = np.roll(a, 3, axis=0)
    assert surface_distances(a, b, spacing=(1.5, 1, 1))[1]["hd"] == pytest.approx(4.5)
    assert hd95(a, b, spacing=2)[1] == pytest.approx(6)
    assert hd95(Image.from_array(a, spacing=2.0), b)[1] == pytest.approx(6)
    assert assd(a, a) == {1: 0.0}


def test_without_a_surface_there_is_no_distance():
    a = np.zeros((6, 6), np.uint8)
    a[2:4, 2:4] = 1
    found = surface_distances(a, np.zeros_like(a), labels=[1, 2])
    assert all(np.isnan(value) for distances in found.values() for value in distances.values())
    assert set(found) == {1, 2}
