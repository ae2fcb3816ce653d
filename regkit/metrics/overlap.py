"""Overlap of label maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from regkit.metrics.labels import codes, label_pair, wanted_labels


def dice(fixed: Any, moved: Any, labels: Sequence[int] | None = None) -> dict[int, float]:
    """Dice similarity coefficient of each label, 2 |A n B| / (|A| + |B|) (Dice 1945).

    All labels are counted in one pass over the voxels.

    Args:
        fixed, moved: label maps on one grid: Image, array or tensor of integers.
        labels: which labels; by default all above 0 in `fixed`.

    Returns:
        {label: Dice in [0, 1]}. A label in one map only has 0. A label in neither has NaN, so that it does not count in a nanmean.
        (Learn2Reg also takes NaN where a label is missing in the fixed or the unwarped moving map; leave such labels out of `labels` to
        follow it.)
    """
    a, b = label_pair(fixed, moved)
    wanted = wanted_labels(a, labels)
    if not wanted:
        return {}
    values = np.unique(np.asarray(wanted, dtype=np.int64))
    size = len(values) + 1
    joint = np.bincount(codes(a, values).ravel() * size + codes(b, values).ravel(), minlength=size * size).reshape(size, size)
    both, total = np.diag(joint).astype(np.float64), (joint.sum(0) + joint.sum(1)).astype(np.float64)
    score = np.divide(2 * both, total, out=np.full(size, np.nan), where=total > 0)
    place = {int(value): number for number, value in enumerate(values)}
    return {label: float(score[place[label]]) for label in wanted}
