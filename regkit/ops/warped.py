"""What the similarities of an image and a warped one share: their checks, and how they take the two. They are differentiable by the
displacement only."""

import torch

from regkit.ops import check
from regkit.ops.warp import PADDINGS


def checked(op: str, instead: str, fixed, moving, displacement, weight, padding: str) -> int:
    """The padding's number. instead: what an image that requires a gradient could be given to.

    Raises ValueError for shapes and options, TypeError for dtypes and where fixed, moving or weight require a gradient.
    """
    dims = check.displacement(displacement)
    check.image(fixed, "fixed", dims)
    check.image(moving, "moving", dims)
    for name, x in (("fixed", fixed), ("moving", moving)):
        check.floating(x, name)
    check.same("batch size", fixed=fixed.shape[0], moving=moving.shape[0], displacement=displacement.shape[0])
    check.same("channels", fixed=fixed.shape[1], moving=moving.shape[1])
    check.same("spatial sizes", fixed=tuple(fixed.shape[2:]), displacement=tuple(displacement.shape[2:]))
    check.same("device", fixed=fixed.device, moving=moving.device, displacement=displacement.device)
    pad = check.choice(padding, "padding", PADDINGS)
    if min(moving.shape[2:]) == 0 and displacement.numel():
        raise ValueError(f"moving must have at least one voxel on every axis, but came as {tuple(moving.shape)}")
    if weight is not None:
        check.same("shapes", weight=tuple(weight.shape), **{"one channel of fixed": (fixed.shape[0], 1, *fixed.shape[2:])})
    for name, x in (("fixed", fixed), ("moving", moving), ("weight", weight)):
        if torch.is_grad_enabled() and x is not None and x.requires_grad:
            raise TypeError(f"{name} requires a gradient, but {op} is differentiable by the displacement only: detach it, or use {instead}")
    return pad


def stored(fixed: torch.Tensor, moving: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Both images, contiguous, in their own dtype where it is one and float64 is not computed with, else in the working dtype."""
    keep = fixed.dtype == moving.dtype and dtype == torch.float32
    return tuple((x if keep else x.to(dtype)).contiguous() for x in (fixed, moving))
