"""Normalised mutual information knows any relation between grey values, and its gradient points to it."""

import torch

from regkit.registration.mutual import normalised_mutual_information as nmi


def test_any_relation_counts(generator):
    a = torch.rand(1, 1, 20, 20, 20, generator=generator)
    every = torch.ones_like(a)
    same, folded = float(nmi(a, a, every)), float(nmi(a, (2 * a - 1).abs(), every))
    apart = float(nmi(a, torch.rand(a.shape, generator=generator), every))
    assert 1.0 <= apart < 1.02 < 1.2 < folded < same <= 2.0


def test_only_weighted_voxels_count(generator):
    a, b = torch.rand(1, 1, 16, 16, generator=generator), torch.rand(1, 1, 16, 16, generator=generator)
    weight = torch.zeros_like(a)
    weight[..., :8] = 1
    torch.testing.assert_close(nmi(a, b, weight), nmi(a[..., :8], b[..., :8], torch.ones(1, 1, 16, 8)))


def test_gradient(generator):
    a, b = (torch.rand(1, 1, 5, 6, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    weight = torch.rand(1, 1, 5, 6, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, y: nmi(x, y, weight, bins=8), (a, b), eps=1e-7, atol=1e-4)


def test_a_constant_image_tells_nothing():
    a = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8).requires_grad_()
    found = nmi(a, torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8))
    found.backward()
    assert abs(float(found.detach()) - 1) < 0.02 and bool(a.grad.isfinite().all())
