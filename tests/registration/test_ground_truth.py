"""The motion to learn from: what the intensities show is found, labels add what they don't show, and the two are composed."""

import pytest
import torch

from regkit import ops
from regkit.errors import UsageError
from regkit.geometry import Grid
from regkit.registration import ground_truth as module
from regkit.registration.ground_truth import MapsDemons, align_maps, ground_truth

SHAPE = (28, 30, 26)
GRID = Grid.from_spacing(SHAPE, 2.0)


def ball(center: tuple[float, ...], radius: float) -> torch.Tensor:
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in SHAPE), indexing="ij")
    return (sum((x - c).square() for x, c in zip(axes, center)) < radius**2)[None, None]


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_labels_align_what_intensities_do_not_show():
    """The scans show a large ball that moved along one axis, the labels a small one in it that moved along another, too."""
    large, small = (ball((14, 15, 13), 9), ball((16, 15, 13), 9)), (ball((14, 15, 13), 4), ball((16, 17, 13), 4))
    images = [0.2 + 0.6 * ops.smooth(x.float()) for x in large]
    maps = [x.to(torch.uint8) + y.to(torch.uint8) for x, y in zip(large, small)]
    found = {}
    for labels in ((), (1, 2)):
        u = ground_truth(*images, *maps, labels, GRID)
        moved = ops.warp_labels(maps[1], u)
        found[labels] = [overlap(maps[0] >= n, moved >= n) for n in (1, 2)]
        assert u.shape == (1, 3, *SHAPE) and (ops.jacobian_determinant(u) > 0).all()
    assert min(found[()][0], found[(1, 2)][0]) > 0.95 > overlap(*large)
    assert found[(1, 2)][1] > 0.8 and found[(1, 2)][1] > found[()][1] + 0.1


def test_the_two_are_composed(monkeypatch):
    """Moving labels are seen through the first displacement, and the second goes before it."""
    first, second = torch.zeros(1, 3, *SHAPE), torch.zeros(1, 3, *SHAPE)
    first[:, 0] = torch.linspace(0, 2, SHAPE[1])[:, None]
    second[:, 1] = 1.5
    seen = {}

    def align(fixed, moving, grid, demons):
        seen["moving"] = moving
        return second

    monkeypatch.setattr(module, "refine", lambda *args: (first, {}))
    monkeypatch.setattr(module, "align_maps", align)
    image, maps = torch.rand(1, 1, *SHAPE), ball((14, 15, 13), 6).to(torch.uint8)
    u = ground_truth(image, image, maps, maps, (1,), GRID)
    torch.testing.assert_close(u, ops.compose(first, second))
    torch.testing.assert_close(seen["moving"], ops.warp((maps == 1).float(), first, padding="border"))
    assert (u - first - second).abs().max() > 0.05  # they don't just add


def test_equal_maps_stay():
    maps = ball((14, 15, 13), 6).float()
    assert align_maps(maps, maps, GRID, MapsDemons(iterations=(3, 2))).abs().max() < 1e-6


def test_mistakes_are_told():
    volume = torch.zeros(1, 1, *SHAPE)
    with pytest.raises(UsageError, match="unknown preset 'brain'"):
        ground_truth(volume, volume, volume, volume, (), GRID, preset="brain")
    for wrong in ({"shrink": (2.0,)}, {"shrink": (0.5, 1.0)}, {"step": 0.0}, {"smoothing": -1}):
        with pytest.raises(UsageError, match="must"):
            MapsDemons(**wrong)
