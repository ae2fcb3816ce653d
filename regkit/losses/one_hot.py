"""Label maps as numbers of classes, and as one channel a class."""

from collections.abc import Sequence

import torch

from regkit.ops import check
from regkit.ops.soft_dice import wanted_labels
from regkit.ops.warp_labels import integers


def class_map(label_map: torch.Tensor, labels: int | Sequence[int]) -> torch.Tensor:
    """(B, 1, *spatial) labels -> (B, *spatial) int64: 1 + the label's place in `labels`, and 0 for all others, which are background.

    labels: above 0; a number n stands for 1 .. n. Raises ValueError for shapes and labels, TypeError for a map that is not of integers.
    """
    integers(label_map, "label_map")
    check.image(label_map, "label_map")
    if label_map.shape[1] != 1:
        raise ValueError(f"label_map must have one channel, (B, 1, *spatial), but came as {tuple(label_map.shape)}")
    wanted = wanted_labels(labels)
    if min(wanted) < 1:
        raise ValueError(f"labels must be above 0, the background, but came as {wanted}")
    given = label_map[:, 0].long()  # else 300 would be 44 to a map of uint8
    found = torch.zeros_like(given)
    for place, label in enumerate(wanted, start=1):
        found.masked_fill_(given == label, place)
    return found


def one_hot(label_map: torch.Tensor, labels: int | Sequence[int]) -> torch.Tensor:
    """(B, 1, *spatial) labels -> (B, 1 + len(labels), *spatial) float32: 1 in the channel of a voxel's class, else 0.

    Channel 0 is the background: everything that is not one of `labels`. Arguments and errors are those of `class_map`.
    """
    found = class_map(label_map, labels)
    return torch.stack([found == n for n in range(1 + len(wanted_labels(labels)))], 1).float()
