"""Data to register and to learn from."""

from regkit.data.augment import AffineAugmentation
from regkit.data.random_field import smooth_random_displacement
from regkit.data.thorax import Phantom, phantom

__all__ = ["AffineAugmentation", "Phantom", "phantom", "smooth_random_displacement"]
