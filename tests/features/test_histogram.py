"""Matching of grey values: ranks stay, the distribution becomes the template's, and the background is left alone."""

import torch

from regkit.features.histogram import matched


def test_another_contrast_is_undone():
    template = torch.rand(1, 1, 20, 21, 22, generator=torch.Generator().manual_seed(0)) + 0.05
    template[..., :8] = 0  # background
    other = torch.where(template > 0, 0.2 + 0.5 * template.square(), 0.0)
    found = matched(other, template)
    assert (found[..., :8] == 0).all()
    assert (found - template).abs().max() < 0.01 < (other - template).abs().max()


def test_ranks_stay_and_the_distribution_is_the_templates():
    draws = torch.Generator().manual_seed(1)
    image, template = torch.rand(5000, generator=draws), torch.rand(700, generator=draws).square() + 1
    found = matched(image, template)
    assert (found[image.argsort()].diff() >= 0).all()
    share = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    torch.testing.assert_close(found.quantile(share), template.quantile(share), atol=0.01, rtol=0)


def test_nothing_to_match():
    image, empty = torch.rand(3, 4), torch.zeros(3, 4)
    assert torch.equal(matched(image, empty), image) and torch.equal(matched(empty, image), empty)
    two = torch.where(image > 0.5, 0.7, 0.0)  # one grey value
    assert matched(two, image)[two > 0].unique().numel() == 1
