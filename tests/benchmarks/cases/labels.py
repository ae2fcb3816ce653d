"""warp_labels, soft_dice: append an OpCase to CASES (see __init__.py)."""

from tests.benchmarks.case import OpCase

CASES: list[OpCase] = []
