"""What training minimises, built on regkit.ops. Every function gives a scalar, but for those that make label maps ready."""

from regkit.losses.contour import contour_loss
from regkit.losses.folds import fold_loss
from regkit.losses.global_ncc import global_ncc_loss
from regkit.losses.label_cross_entropy import label_cross_entropy
from regkit.losses.one_hot import class_map, one_hot
from regkit.losses.overlap import dice_loss
from regkit.losses.similarity import lncc_loss, similarity_pyramid
from regkit.losses.smoothness import smoothness_loss
from regkit.losses.ssim import ssim_loss
from regkit.losses.total_variation import total_variation_loss

__all__ = [
    "class_map",
    "contour_loss",
    "dice_loss",
    "fold_loss",
    "global_ncc_loss",
    "label_cross_entropy",
    "lncc_loss",
    "one_hot",
    "similarity_pyramid",
    "smoothness_loss",
    "ssim_loss",
    "total_variation_loss",
]
