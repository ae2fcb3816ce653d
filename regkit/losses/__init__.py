"""What training minimises, built on regkit.ops. Every function gives a scalar."""

from regkit.losses.folds import fold_loss
from regkit.losses.overlap import dice_loss
from regkit.losses.similarity import lncc_loss, similarity_pyramid
from regkit.losses.smoothness import smoothness_loss

__all__ = ["dice_loss", "fold_loss", "lncc_loss", "similarity_pyramid", "smoothness_loss"]
