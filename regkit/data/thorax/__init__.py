"""A made thorax CT that breathes, with its true displacement."""

from regkit.data.thorax.anatomy import ORGANS
from regkit.data.thorax.phantom import Phantom, phantom

__all__ = ["ORGANS", "Phantom", "phantom"]
