"""Attention-guided fusion of multi-scale fields: a segmentation takes what is of no interest out of both images, then they are registered
(He, He & Cao 2022).

The segmentation network is trained before, on its own, and is part of this one only so that one weights file is all that registering needs.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import nn

from regkit import ops
from regkit.models.dense_fusion import DenseFusion
from regkit.models.fields import LevelFields
from regkit.models.layers import AVERAGE_POOL, check_dims, check_image, check_pair
from regkit.models.mask_refinement import MaskRefinement, refine_on_masks
from regkit.models.segmentation_unet import SegmentationUNet

Mask = Literal["hard", "soft", "none"]


class AttentionFusion(nn.Module):
    """Registers image x mask. 508,142 parameters in 2-D that learn, and the attention's, which do not.

    attention: options of SegmentationUNet. Its network never learns here, and its batch normalisation stays as it was trained. Load its
    weights into `.attention`; before that the masks mean nothing.
    registration: options of DenseFusion.
    mask: "hard", 1 where the probability of all structures together (1 - background) is above 1/2, else 0, as the paper has it; "soft",
    that probability; "none": no attention network is made, `attention` is not used, and the images go in as they are.
    shrink: the registration network sees the cleaned images at 1/shrink of their size (means over shrink^D voxels), and its field (or
    velocity) is brought back linearly: so the masks, the losses and the refinement can be finer than what the network can afford.
    refinement: options of MaskRefinement: `forward` (not training, which takes `fields`) refines the field on the masks of the pair.
    dims: 2 or 3 axes.

    The masks are found in the frame that the network sees; the paper does not say at what size. Training compares images: `clean` gives
    those that the network saw.
    Source: He, He & Cao, Deformable image registration with attention-guided fusion of multi-scale deformation fields, Applied Intelligence
    2022.
    """

    def __init__(
        self,
        attention: Mapping[str, Any] | None = None,
        registration: Mapping[str, Any] | None = None,
        mask: Mask = "hard",
        refinement: Mapping[str, Any] | None = None,
        dims: int = 2,
        shrink: int = 1,
    ):
        super().__init__()
        if shrink < 1:
            raise ValueError(f"shrink must be at least 1, but came as {shrink}")
        if mask not in get_args(Mask):
            raise ValueError(f"mask must be one of {', '.join(get_args(Mask))}, but came as {mask}")
        check_dims(dims)
        self.dims, self.mask, self.shrink, self.refinement = dims, mask, shrink, MaskRefinement(**(refinement or {}))
        if mask == "none" and self.refinement.iterations:
            raise ValueError("refinement needs masks, but mask came as none")
        self.attention = None if mask == "none" else SegmentationUNet(**{**(attention or {}), "dims": dims}).eval().requires_grad_(False)
        self.registration = DenseFusion(**{**(registration or {}), "dims": dims})

    @property
    def multiple(self) -> int:
        """Image sizes must be multiples of this. Both parts' are powers of 2, and so should shrink be."""
        return max(self.registration.multiple * self.shrink, SegmentationUNet.multiple)

    def train(self, mode: bool = True) -> "AttentionFusion":
        """As torch's, but the attention stays as in evaluation."""
        super().train(mode)
        if self.attention is not None:
            self.attention.eval()
        return self

    def clean(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The image (B, 1, *spatial) times its mask, and the probability (B, 1, *spatial) that the mask is made of (1 without attention).

        No gradient goes into the attention. Raises ValueError for an image of another shape, or of a size that is not a multiple of
        `multiple`.
        """
        check_image(image, self.dims, self.multiple)
        if self.attention is None:
            return image, torch.ones_like(image)
        with torch.no_grad():
            probability = 1 - self.attention(image).softmax(1)[:, :1]
            weight = (probability > 0.5).to(image.dtype) if self.mask == "hard" else probability
        return image * weight, probability

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """The displacement (B, D, *spatial) in voxels that aligns moving with fixed, both (B, 1, *spatial) with intensities in 0..1.

        Raises ValueError for images of two shapes, of more than one channel, or of a size that is not a multiple of `multiple`.
        """
        check_pair(fixed, moving, self.dims, self.multiple)
        cleaned, masks = zip(*(self.clean(image) for image in (fixed, moving)))
        found = self.register(*cleaned)
        if not self.refinement.iterations:
            return found.displacement
        return refine_on_masks(found, *masks, self.refinement, self.registration.int_steps)

    def fields(self, fixed: torch.Tensor, moving: torch.Tensor) -> LevelFields:
        """The displacement of `forward` before refinement, and the velocity where there is one."""
        check_pair(fixed, moving, self.dims, self.multiple)
        return self.register(self.clean(fixed)[0], self.clean(moving)[0])

    def register(self, fixed: torch.Tensor, moving: torch.Tensor) -> LevelFields:
        """The fields of images that are cleaned already, at their size."""
        if self.shrink == 1:
            return self.registration.fields(fixed, moving)[-1]
        small = [AVERAGE_POOL[self.dims](image, self.shrink) for image in (fixed, moving)]
        field = self.registration.fused(self.registration.scale_fields(*small))[-1]
        fine = ops.upsample(field, fixed.shape[2:], self.shrink, (self.shrink - 1) / 2, scale=self.shrink)
        return self.registration.found(fine)
