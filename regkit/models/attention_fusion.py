"""Attention-guided fusion of multi-scale fields: a segmentation takes what is of no interest out of both images, then they are registered
(He, He & Cao 2022).

The segmentation network is trained before, on its own, and is part of this one only so that one weights file is all that registering needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import lcm
from typing import Any, Literal, get_args

import torch
from torch import nn

from regkit import ops
from regkit.models.dense_fusion import DenseFusion
from regkit.models.layers import AVERAGE_POOL, check_dims, check_image, check_pair
from regkit.models.mask_alignment import MaskAlignment, align_masks
from regkit.models.mask_refinement import MaskRefinement, refine_on_masks
from regkit.models.segmentation_unet import SegmentationUNet

Mask = Literal["hard", "soft", "none"]
Align = Literal["none", "moments"]


@dataclass(frozen=True)
class Cleaned:
    """What the mask leaves of images."""

    image: torch.Tensor  # (B, 1, *spatial), times the mask
    probability: torch.Tensor  # (B, 1, *spatial), of all structures together, which the mask is made of; 1 without attention


@dataclass(frozen=True)
class Registered:
    """The displacement of a pair, and what the network gave for it."""

    displacement: torch.Tensor  # (B, D, *spatial), voxels
    field: torch.Tensor  # (B, D, *spatial), of the aligned pair: the velocity where there is one, else the displacement


class AttentionFusion(nn.Module):
    """Registers image x mask. 508,142 parameters in 2-D that learn, and the attention's, which do not.

    attention: options of SegmentationUNet. Its network never learns here, and its batch normalisation stays as it was trained. Load its
    weights into `.attention`; before that the masks mean nothing.
    registration: options of DenseFusion.
    mask: "hard", 1 where the probability of all structures together (1 - background) is above 1/2, else 0, as the paper has it; "soft",
    that probability; "none": no attention network is made, `attention` is not used, and the images go in as they are.
    align: "moments" scales and shifts the moving image so that its mask lies on the fixed one, before the network (mask_alignment.py);
    "none", as the paper has it, leaves all to the network.
    shrink: the pair is registered at 1/shrink of its size (means over shrink^D voxels), and the field (or velocity) is brought back
    linearly: so masks and losses can be finer than what the network can afford.
    refinement: options of MaskRefinement: `forward` (not training) refines the field on the masks of the pair.
    dims: 2 or 3 axes.

    The masks are found in the frame that the network sees; the paper does not say at what size. Training compares images: `clean` gives
    those that the network saw.
    Source: He, He & Cao, Deformable image registration with attention-guided fusion of multi-scale deformation fields, Applied Intelligence
    2022; `align`, `shrink` and `refinement` are this code's.
    """

    def __init__(
        self,
        attention: Mapping[str, Any] | None = None,
        registration: Mapping[str, Any] | None = None,
        mask: Mask = "hard",
        refinement: Mapping[str, Any] | None = None,
        dims: int = 2,
        shrink: int = 1,
        align: Align = "none",
    ):
        super().__init__()
        if shrink < 1:
            raise ValueError(f"shrink must be at least 1, but came as {shrink}")
        for name, value, known in (("mask", mask, get_args(Mask)), ("align", align, get_args(Align))):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, but came as {value}")
        check_dims(dims)
        self.dims, self.mask, self.align, self.shrink = dims, mask, align, shrink
        self.refinement = MaskRefinement(**(refinement or {}))
        for name, asked in (("refinement", self.refinement.iterations), ("align", align != "none")):
            if mask == "none" and asked:
                raise ValueError(f"{name} needs masks, but mask came as none")
        self.attention = None if mask == "none" else SegmentationUNet(**{**(attention or {}), "dims": dims}).eval().requires_grad_(False)
        self.registration = DenseFusion(**{**(registration or {}), "dims": dims})

    @property
    def multiple(self) -> int:
        """Image sizes must be multiples of this: of what both parts need."""
        return lcm(self.registration.multiple * self.shrink, SegmentationUNet.multiple)

    def train(self, mode: bool = True) -> "AttentionFusion":
        """As torch's, but the attention stays as in evaluation."""
        super().train(mode)
        if self.attention is not None:
            self.attention.eval()
        return self

    def clean(self, image: torch.Tensor) -> Cleaned:
        """What the mask leaves of an image (B, 1, *spatial).

        No gradient goes into the attention. Raises ValueError for an image of another shape, or of a size that is not a multiple of
        `multiple`.
        """
        check_image(image, self.dims, self.multiple)
        if self.attention is None:
            return Cleaned(image, torch.ones_like(image))
        with torch.no_grad():
            probability = 1 - self.attention(image).softmax(1)[:, :1]
            weight = (probability > 0.5).to(image.dtype) if self.mask == "hard" else probability
        return Cleaned(image * weight, probability)

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """The displacement (B, D, *spatial) in voxels that aligns moving with fixed, both (B, 1, *spatial) with intensities in 0..1.

        Raises ValueError for images of two shapes, of more than one channel, or of a size that is not a multiple of `multiple`.
        """
        check_pair(fixed, moving, self.dims, self.multiple)
        return self.register(self.clean(fixed), self.clean(moving), refine=self.refinement.iterations > 0).displacement

    def register(self, fixed: Cleaned, moving: Cleaned, refine: bool = False) -> Registered:
        """The same of cleaned images; refine: on the masks of the pair."""
        size, pool = fixed.image.shape[2:], AVERAGE_POOL[self.dims]
        if self.shrink > 1:
            fixed, moving = (Cleaned(*(pool(x, self.shrink) for x in (one.image, one.probability))) for one in (fixed, moving))
        aligned = None if self.align == "none" else align_masks(fixed.probability, moving.probability)
        seen = moving if aligned is None else self._pulled(moving, aligned)
        field = self.registration.fused(self.registration.scale_fields(fixed.image, seen.image))[-1]
        whole = self.registration.found
        if refine:
            field = refine_on_masks(field, lambda x: whole(x).displacement, fixed.probability, seen.probability, self.refinement)
        if self.shrink > 1:
            field = ops.upsample(field, size, self.shrink, (self.shrink - 1) / 2, scale=self.shrink)
        displacement = whole(field).displacement
        return Registered(displacement if aligned is None else aligned.then(displacement, self.shrink), field)

    def _pulled(self, moving: Cleaned, aligned: MaskAlignment) -> Cleaned:
        both = torch.cat([moving.image, moving.probability], 1).float()
        still = both.new_zeros((len(both), self.dims, *both.shape[2:]))
        pulled = ops.warp(both, aligned.then(still), padding="border")
        return Cleaned(pulled[:, :1].to(moving.image.dtype), pulled[:, 1:])
