import numpy as np
import pytest
import torch

from regkit.errors import InputError
from regkit.geometry import Image
from regkit.metrics import dice


def by_label(a, b, labels):
    return {n: 2 * ((a == n) & (b == n)).sum() / ((a == n).sum() + (b == n).sum()) for n in labels}


@pytest.mark.parametrize("values", [np.arange(8), np.array([0, 3, 17, 1002, 2035]), np.array([0, 5, 1 << 40, 7 << 40])])
@pytest.mark.parametrize("shape", [(17, 19), (9, 8, 7)])
def test_agrees_with_the_definition_label_by_label(values, shape):
    rng = np.random.default_rng(0)
    a, b = rng.choice(values, shape), rng.choice(values, shape)
    found = dice(a, b)
    assert list(found) == [n for n in values.tolist() if n > 0]
    assert found == pytest.approx(by_label(a, b, found))


def test_missing_labels():
    a, b = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    a[0], b[1] = 1, 2
    found = dice(a, b, labels=[1, 2, 9, 300])
    assert found[1] == 0 and found[2] == 0
    assert np.isnan(found[9]) and np.isnan(found[300])
    assert dice(a, b) == {1: 0.0}
    assert dice(np.zeros((4, 4), int), b) == {}


def test_labels_keep_the_order_asked_for_and_may_repeat_or_be_negative():
    a = np.array([[-1, -1, 2, 3]])
    assert dice(a, a, labels=[3, -1, 3]) == {3: 1.0, -1: 1.0}


def test_takes_images_tensors_masks_and_whole_floats():
    a = np.arange(60).reshape(3, 4, 5) % 3
    expected = dice(a, a[::-1])
    assert dice(Image.from_array(a.astype(np.int16)), torch.from_numpy(a[::-1].copy())[None, None]) == expected
    assert dice(a.astype(np.float32), a[::-1].astype(np.uint64)) == expected
    assert dice(a == 1, a == 1) == {1: 1.0}


def test_errors_name_what_came():
    a = np.ones((3, 4), int)
    with pytest.raises(InputError, match=r"\(3, 4\) and moved labels \(4, 3\)"):
        dice(a, a.T)
    with pytest.raises(InputError, match="moved labels hold fractions"):
        dice(a, a * 0.5)
    with pytest.raises(InputError, match="one label map"):
        dice(np.ones((2, 1, 3, 4, 5), int), a)
