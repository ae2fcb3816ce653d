"""soft_dice: overlap of a label map with a warped one, differentiable by the displacement."""

from collections.abc import Sequence

import torch

from regkit import reference
from regkit.ops import check, native
from regkit.ops.backends import register, triton_kernel
from regkit.ops.warp_labels import integers

PADDINGS = ("zeros", "border")
MOST_LABELS, WIDEST_RANGE = 65534, 1 << 20
# The order of csrc's LabelType; labels of other integer dtypes are taken to int64.
LABEL_TYPES = (torch.uint8, torch.int8, torch.uint16, torch.int16, torch.int32, torch.int64)


def soft_dice(
    fixed_labels: torch.Tensor,  # (B, 1, *spatial), integers
    moving_labels: torch.Tensor,  # (B, 1, *moving_spatial), integers
    displacement: torch.Tensor,  # (B, D, *spatial), voxels
    *,
    labels: int | Sequence[int],
    padding: str = "zeros",
    eps: float = 1e-5,
) -> torch.Tensor:  # (B, L), in the order of labels
    """Dice of each label between `fixed_labels` and linearly warped `moving_labels`, as of one-hot maps, which are never made.

        Dice_l = (2 sum_x [F(x) = l] S_l(x) + eps) / (sum_x S_l(x) + sum_x [F(x) = l] + eps),   S_l(x) = sum_i w_i [M(floor(x+u) + i) = l]

    labels: the labels that count, e.g. (2, 3, 17, 41); a number n stands for 1 .. n. Voxels with other labels belong to none of them.
    padding: "zeros" voxels outside the moving map have none of the labels; "border" coordinates are clamped (gradient 0 strictly outside).
    eps: makes the Dice of a label that neither map has 1, with no gradient, so that such labels do not disturb a loss `1 - dice.mean()`.
        With eps = 0 it is NaN, for nanmean, with no gradient either.
    Differentiable once by the displacement; the gradient is 0 except at the borders between labels. Forward and backward save nothing but
    the inputs and (B, 3, L) sums. Coordinates are float32, sums float64 in a fixed order; the result is float32 (float64 for a float64
    displacement). An item of the batch with a NaN displacement has NaN Dice, and a NaN gradient.

    Source: Dice 1945; Balakrishnan et al. 2019 (VoxelMorph) for the overlap of warped one-hot maps as a loss.
    Raises ValueError for shapes, labels and options, TypeError for dtypes.
    """
    dims = check.displacement(displacement)
    wanted = wanted_labels(labels)
    for name, x in (("fixed_labels", fixed_labels), ("moving_labels", moving_labels)):
        integers(x, name)
        check.image(x, name, dims)
        if x.shape[1] != 1:
            raise ValueError(f"{name} must be a label map with one channel, (B, 1, *spatial), but came as {tuple(x.shape)}")
    check.same("batch size", fixed_labels=fixed_labels.shape[0], moving_labels=moving_labels.shape[0], displacement=displacement.shape[0])
    check.same("size", fixed_labels=tuple(fixed_labels.shape[2:]), displacement=tuple(displacement.shape[2:]))
    check.same("device", fixed_labels=fixed_labels.device, moving_labels=moving_labels.device, displacement=displacement.device)
    if min(moving_labels.shape[2:]) == 0 and displacement.numel():
        raise ValueError(f"moving_labels must have at least one voxel on every axis, but came as {tuple(moving_labels.shape)}")
    if eps < 0:
        raise ValueError(f"eps must be at least 0, but came as {eps}")
    pad = check.choice(padding, "padding", PADDINGS)
    both, warped, still = torch.ops.regkit.soft_dice(fixed_labels, moving_labels, displacement, wanted, pad).unbind(1)
    total = warped + still + eps
    absent = total == 0
    dice = torch.where(absent, float("nan"), (2 * both + eps) / torch.where(absent, 1.0, total))
    return dice.to(native.working_dtype(displacement))


def wanted_labels(labels: int | Sequence[int]) -> list[int]:
    """A number of labels, or the labels -> the labels, checked."""
    if isinstance(labels, int):
        check.at_least(labels, "labels", 1)
        wanted = list(range(1, labels + 1))
    else:
        wanted = [int(label) for label in labels]
    if not wanted or len(wanted) > MOST_LABELS:
        raise ValueError(f"labels must be 1 to {MOST_LABELS} labels, but {len(wanted)} came")
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"labels must differ, but came as {wanted}")
    if max(wanted) - min(wanted) >= WIDEST_RANGE:
        raise ValueError(
            f"labels must be within {WIDEST_RANGE} of each other, but are from {min(wanted)} to {max(wanted)}; number them anew "
            "(torch.searchsorted)"
        )
    return wanted


# The sums over voxels that Dice and its kin are made of: (B, 3, L) float64, both (F and S), warped (S), still (F).
torch.library.define("regkit::soft_dice", "(Tensor fixed, Tensor moving, Tensor displacement, int[] labels, int padding) -> Tensor")
# grad (B, 3, L): derivatives by the sums.
torch.library.define(
    "regkit::soft_dice_backward",
    "(Tensor grad, Tensor fixed, Tensor moving, Tensor displacement, int[] labels, int padding) -> Tensor",
)


@torch.library.register_fake("regkit::soft_dice")
def _fake(fixed, moving, displacement, labels, padding):
    return displacement.new_empty((fixed.shape[0], 3, len(labels)), dtype=torch.float64)


@torch.library.register_fake("regkit::soft_dice_backward")
def _fake_backward(grad, fixed, moving, displacement, labels, padding):
    return displacement.new_empty(displacement.shape)


def _plain(labels: torch.Tensor) -> torch.Tensor:
    return (labels if labels.dtype in LABEL_TYPES else labels.to(torch.int64)).contiguous()


def _call(fixed: torch.Tensor, moving: torch.Tensor, u: torch.Tensor, labels: list[int], padding: int) -> tuple:
    """What both launchers take first."""
    types = tuple(LABEL_TYPES.index(x.dtype) for x in (fixed, moving))
    spatial = native.sizes(u.shape[2:]), native.sizes(moving.shape[2:])
    return *map(native.address, (fixed, moving, u)), types, u.shape[1], u.shape[0], *spatial, labels, padding


def _cpp(fixed, moving, displacement, labels, padding):
    dtype = native.working_dtype(displacement)
    f, m, u = _plain(fixed), _plain(moving), displacement.to(dtype).contiguous()
    sums = u.new_empty((u.shape[0], 3, len(labels)), dtype=torch.float64)
    native.function("soft_dice", dtype)(*_call(f, m, u, labels, padding), native.address(sums), torch.get_num_threads())
    return sums


def _cpp_backward(grad, fixed, moving, displacement, labels, padding):
    dtype = native.working_dtype(displacement)
    f, m, u = _plain(fixed), _plain(moving), displacement.to(dtype).contiguous()
    tables, out = grad[:, :2].to(dtype).contiguous(), torch.empty_like(u)
    native.function("soft_dice_grad", dtype)(
        *_call(f, m, u, labels, padding), native.address(tables), native.address(out), torch.get_num_threads()
    )
    return out.to(displacement.dtype)


register("soft_dice", reference=reference.soft_dice, cpp=_cpp, triton=triton_kernel("soft_dice", "soft_dice"))
register(
    "soft_dice_backward",
    reference=reference.soft_dice_backward,
    cpp=_cpp_backward,
    triton=triton_kernel("soft_dice", "soft_dice_backward"),
)


def _setup_context(ctx, inputs, output):
    fixed, moving, displacement, ctx.labels, ctx.padding = inputs
    ctx.save_for_backward(fixed, moving, displacement)


def _backward(ctx, grad):
    return None, None, torch.ops.regkit.soft_dice_backward(grad, *ctx.saved_tensors, ctx.labels, ctx.padding), None, None


torch.library.register_autograd("regkit::soft_dice", _backward, setup_context=_setup_context)
