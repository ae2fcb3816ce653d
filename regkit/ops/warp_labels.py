"""warp_labels: label maps at displaced positions."""

import torch

from regkit import reference
from regkit.ops import check, native
from regkit.ops.backends import register, triton_kernel
from regkit.ops.warp import PADDINGS

MODES = ("nearest", "majority")
INTEGERS = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64, torch.bool,
)  # fmt: skip
EXACT = 1 << 53  # a float64 tells whole numbers apart up to here


def warp_labels(
    labels: torch.Tensor,  # (B, C, *labels_spatial), integers
    displacement: torch.Tensor,  # (B, D, *spatial), voxels
    *,
    mode: str = "nearest",
    padding: str = "zeros",
    fill: int = 0,
) -> torch.Tensor:  # (B, C, *spatial), the dtype of labels
    """Pulls label maps through a displacement: `out(x) = labels(x + u(x))`, with labels that were in the map, or `fill`.

    mode: "nearest" the label of the nearest voxel, halves round up.
        "majority" the label with the largest sum of linear weights over the 2^D voxels around the position: the argmax of warped one-hot
        maps, smoother than nearest, with no one-hot in memory. Weights are counted in steps of 2^-20 voxel along each axis, so that
        sums are exact and every backend finds the same label; of labels with equal sums the smallest is taken.
    padding: "zeros" voxels outside the map count as `fill`; "border" coordinates are clamped; "extent" within half a voxel of the edge the
        edge's label, beyond that `fill` (ITK's rule).
    Positions are float32. A NaN displacement gives `fill` (border: the first voxel along that axis). Not differentiable; soft_dice is the
    differentiable overlap of a warped label map with another.

    Raises ValueError for shapes, options and a fill that the dtype of labels can't hold, TypeError for dtypes.
    """
    dims = check.displacement(displacement)
    check.image(labels, "labels", dims)
    integers(labels, "labels")
    check.same("batch size", labels=labels.shape[0], displacement=displacement.shape[0])
    check.same("device", labels=labels.device, displacement=displacement.device)
    pad = check.choice(padding, "padding", PADDINGS)
    low, high = (0, 1) if labels.dtype == torch.bool else (torch.iinfo(labels.dtype).min, torch.iinfo(labels.dtype).max)
    low, high = max(low, -EXACT), min(high, EXACT)
    if not low <= fill <= high:
        raise ValueError(f"fill must be a label from {low} to {high}, which {labels.dtype} holds, but came as {fill}")
    if min(labels.shape[2:]) == 0 and displacement.numel():
        raise ValueError(f"labels must have at least one voxel on every axis, but came as {tuple(labels.shape)}")
    op = (torch.ops.regkit.warp_nearest, torch.ops.regkit.warp_labels)[check.choice(mode, "mode", MODES)]
    return op(labels, displacement.detach(), pad, fill)


def integers(labels: torch.Tensor, name: str) -> None:
    """Checks that labels are whole numbers."""
    if labels.dtype not in INTEGERS:
        raise TypeError(
            f"{name} must be integers, but came as {labels.dtype}; convert them with .to(torch.int16), or warp an image with warp"
        )


torch.library.define("regkit::warp_labels", "(Tensor labels, Tensor displacement, int padding, int fill) -> Tensor")


@torch.library.register_fake("regkit::warp_labels")
def _fake(labels, displacement, padding, fill):
    return labels.new_empty((*labels.shape[:2], *displacement.shape[2:]))


def _cpp(labels, displacement, padding, fill):
    m, u = labels.contiguous(), displacement.float().contiguous()
    out = m.new_empty((*labels.shape[:2], *displacement.shape[2:]))
    bits, signed = 8 * labels.element_size(), labels.dtype != torch.bool and torch.iinfo(labels.dtype).min < 0
    launch = getattr(native.extension(), f"warp_majority_{bits}")
    launch(
        *map(native.address, (m, u, out)), displacement.shape[1], *labels.shape[:2], native.sizes(labels.shape[2:]),
        native.sizes(displacement.shape[2:]), padding, fill % (1 << bits), 1 << bits - 1 if signed else 0, torch.get_num_threads(),
    )  # fmt: skip
    return out


register("warp_labels", reference=reference.warp_labels, cpp=_cpp, triton=triton_kernel("warp_labels", "warp_labels"))
