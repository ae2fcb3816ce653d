"""Keypoints lie on corners, inside the mask, well spread, and mean the same in 2-D and 3-D."""

import pytest
import torch

from regkit.features import foerstner_keypoints
from regkit.features.foerstner import distinctiveness, farthest_points


def box(dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright box and its corners."""
    image = torch.zeros([1, 1] + [32] * dims)
    image[(0, 0, *[slice(10, 22)] * dims)] = 1
    return image, torch.cartesian_prod(*[torch.tensor([10, 21])] * dims)


@pytest.mark.parametrize("dims", [2, 3])
def test_corners_are_found(dims):
    image, corners = box(dims)
    found = foerstner_keypoints(image, spread=7)
    assert found.dtype == torch.int64 and found.shape[1] == dims
    near = torch.cdist(corners.float(), found.float()).amin(1)
    assert near.max() <= 2.0
    best = found[distinctiveness(image)[(0, 0, *found.T)].argsort(descending=True)[: len(corners)]]
    assert torch.cdist(best.float(), corners.float()).amin(1).max() <= 2.0


def test_edges_and_flat_places_are_not():
    image = torch.zeros(1, 1, 32, 32)
    assert len(foerstner_keypoints(image)) == 0
    image[..., 16:] = 1  # a straight edge pins down one direction only
    assert len(foerstner_keypoints(image)) == 0


def test_axes_play_no_part(generator):
    image = torch.rand(1, 1, 14, 16, 18, generator=generator)
    turned = foerstner_keypoints(image.permute(0, 1, 4, 2, 3).contiguous(), spread=5)
    straight = foerstner_keypoints(image, spread=5)[:, [2, 0, 1]]
    assert {tuple(p) for p in turned.tolist()} == {tuple(p) for p in straight.tolist()}


def test_mask_is_eroded(generator):
    image, mask = torch.rand(1, 1, 48, 48, generator=generator), torch.zeros(1, 1, 48, 48)
    mask[..., 8:40, 8:40] = 1
    mask[..., 20, 20] = 0
    every, found = foerstner_keypoints(image, spread=1), foerstner_keypoints(image, mask, spread=1, count=5000)
    assert len(every) > 1000
    # what goes is the mask's rim and the hole's four neighbours, not its diagonal ones
    assert len(found) == 30 * 30 - 5 and found.min() == 9 and found.max() == 38 and [21, 21] in found.tolist()


def test_thinning_keeps_points_apart(generator):
    points = torch.randint(0, 100, (800, 3), generator=generator)
    score = torch.rand(800, generator=generator)
    chosen = farthest_points(points, 50, score)
    assert len(set(chosen.tolist())) == 50 and int(chosen[0]) == int(score.argmax())
    distance = torch.cdist(points[chosen].float(), points[chosen].float()) + 1e6 * torch.eye(50)
    assert distance.min() > 15  # 50 places picked blindly come within a few voxels of each other
