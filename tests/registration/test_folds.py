"""Folds are smoothed out, and nothing else is touched."""

import pytest
import torch

from regkit import ops
from regkit.registration.folds import remove_folds


def smooth(spatial, amplitude=1.0):
    index = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in spatial], indexing="ij"))
    return torch.stack([amplitude * torch.sin(index[(d + 1) % len(spatial)] / 5) for d in range(len(spatial))])[None]


@pytest.mark.parametrize("spatial", [(40, 36), (28, 26, 24)])
def test_a_fold_goes_and_the_rest_stays(spatial):
    u = smooth(spatial)
    middle = tuple(slice(n // 2 - 2, n // 2 + 2) for n in spatial)
    u[(0, 0, *middle)] += 9.0
    assert (ops.jacobian_determinant(u) <= 0).any()
    before = u.clone()
    found, count = remove_folds(u)
    torch.testing.assert_close(u, before, rtol=0, atol=0)  # the argument is not changed
    assert count == int((ops.jacobian_determinant(u) <= 0).sum()) and (ops.jacobian_determinant(found) > 0).all()
    changed = (found != u).any(1)[0].nonzero()
    centre = torch.tensor(spatial) / 2
    assert (changed - centre).abs().max() <= 9


def test_a_fold_at_the_border():
    u = smooth((24, 22, 20))
    u[0, 1, :4, :3, :4] += 7.0
    found, _ = remove_folds(u)
    assert (ops.jacobian_determinant(found) > 0).all()


def test_wild_noise_is_tamed(generator):
    found, count = remove_folds(2.0 * torch.randn(1, 3, 16, 14, 12, generator=generator))
    assert count > 100 and (ops.jacobian_determinant(found) > 0).all()


def test_a_large_mirrored_region_is_mended():
    x = torch.stack(torch.meshgrid(*[torch.arange(96.0)] * 2, indexing="ij")) - 48
    u = (-1.8 * x * (1 - (x.norm(dim=0) / 40) ** 2).clamp_min(0).sqrt())[None]
    found, count = remove_folds(u)
    assert count > 2000 and (ops.jacobian_determinant(found) > 0).all()


def test_without_folds_nothing_happens():
    u = smooth((20, 20, 20))
    found, count = remove_folds(u)
    assert count == 0 and torch.equal(found, u)
