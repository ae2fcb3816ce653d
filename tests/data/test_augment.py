"""Random affines: their ranges, formula, chance, and that a seed says it all."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from regkit import ops
from regkit.data.augment import AffineAugmentation

SIZES = ((20, 31), (20, 31, 12))


def drawn(augmentation: AffineAugmentation, size: tuple[int, ...], count: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([augmentation.draw(size, generator) for _ in range(count)])


def at_center(matrices: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """How far the centre moves, in voxels."""
    center = (torch.tensor(size, dtype=torch.float64) - 1) / 2
    return matrices[..., :-1] @ center + matrices[..., -1] - center


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_rotations(size):
    matrices = drawn(AffineAugmentation(probability=1, translation=0, scale=0), size)
    linear = matrices[..., :-1]
    assert torch.allclose(linear @ linear.mT, torch.eye(len(size), dtype=torch.float64), atol=1e-12)
    assert torch.allclose(torch.linalg.det(linear), torch.ones(len(matrices), dtype=torch.float64))
    assert at_center(matrices, size).abs().max() < 1e-12
    if len(size) == 3:  # A = Rx Ry Rz
        angles = torch.from_numpy(Rotation.from_matrix(linear.numpy()).as_euler("XYZ", degrees=True))
    else:
        angles = torch.atan2(linear[:, 1, 0], linear[:, 0, 0]).rad2deg()[:, None]
    assert angles.abs().max() <= 10
    assert (angles.amax(0) > 9).all() and (angles.amin(0) < -9).all() and (angles.mean(0).abs() < 1).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_translations_are_fractions_of_half_the_size(size):
    matrices = drawn(AffineAugmentation(probability=1, rotation=0, scale=0), size)
    assert torch.equal(matrices[..., :-1], torch.eye(len(size), dtype=torch.float64).expand(len(matrices), -1, -1))
    fraction = matrices[..., -1] / (torch.tensor(size) / 2)
    assert fraction.abs().max() <= 0.05 and (fraction.amax(0) > 0.045).all() and (fraction.amin(0) < -0.045).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_scales_are_of_each_axis_and_about_the_centre(size):
    matrices = drawn(AffineAugmentation(probability=1, rotation=0, translation=0), size)
    factors = torch.diagonal(matrices[..., :-1], dim1=1, dim2=2)
    assert torch.equal(matrices[..., :-1], torch.diag_embed(factors))
    assert (factors - 1).abs().max() <= 0.08 and (factors.amax(0) > 1.07).all() and (factors.amin(0) < 0.93).all()
    assert not torch.allclose(factors[:, 0], factors[:, 1], atol=1e-3)
    assert at_center(matrices, size).abs().max() < 1e-12


def test_shift_and_scale_come_before_the_turn():
    """x -> c + R (S (x - c) + t): the columns of R S have the lengths that S gives them, and the centre goes to R t."""
    matrices = drawn(AffineAugmentation(probability=1), (20, 31, 12))
    lengths = matrices[..., :-1].norm(dim=1)
    assert (lengths - 1).abs().max() <= 0.08 and torch.allclose(lengths.prod(1), torch.linalg.det(matrices[..., :-1]))
    rotation = matrices[..., :-1] / lengths[:, None]
    fraction = (rotation.mT @ at_center(matrices, (20, 31, 12))[..., None])[..., 0] / torch.tensor([10, 15.5, 6])
    assert fraction.abs().max() <= 0.05 and (fraction.abs().amax(0) > 0.045).all()


def test_seed_decides_and_chance_is_kept():
    augmentation, size = AffineAugmentation(probability=0.3), (8, 8, 8)
    draws = [[augmentation.draw(size, g) for _ in range(500)] for g in (torch.Generator().manual_seed(s) for s in (1, 1, 2))]
    same = [(a is None and b is None) or (a is not None and b is not None and torch.equal(a, b)) for a, b in zip(*draws[:2])]
    assert all(same)
    assert [d is None for d in draws[0]] != [d is None for d in draws[2]]
    assert 0.2 < sum(d is not None for d in draws[0]) / 500 < 0.4
    never, always = (AffineAugmentation(probability=p) for p in (0, 1))
    g = torch.Generator().manual_seed(0)
    assert never.draw(size, g) is None
    after = g.get_state()
    g.manual_seed(0)
    assert always.draw(size, g) is not None and torch.equal(g.get_state(), after)  # as many numbers, whatever the outcome


def test_draws_nothing_but_the_identity_from_empty_ranges():
    image = torch.rand(1, 1, 9, 8, 7, generator=torch.Generator().manual_seed(0))
    matrix = AffineAugmentation(probability=1, rotation=0, translation=0, scale=0).draw((9, 8, 7), torch.Generator())
    assert torch.equal(ops.warp_affine(image, matrix), image)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"probability": 1.5}, "probability"),
        ({"rotation": -1}, "rotation"),
        ({"scale": 1.0}, "scale"),
        ({"translation": math.nan}, "transl"),
    ],
)
def test_messages(options, message):
    with pytest.raises(ValueError, match=message):
        AffineAugmentation(**options)
