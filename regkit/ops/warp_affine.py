"""warp_affine: samples an image, and label maps with it, through an affine."""

from collections.abc import Sequence

import torch

from regkit import reference
from regkit.ops import check, native
from regkit.ops.backends import register, triton_kernel
from regkit.ops.warp import PADDINGS
from regkit.ops.warp_labels import integers


def warp_affine(
    image: torch.Tensor,  # (B, C, *image_spatial), floating point
    matrix: torch.Tensor,  # (B, D, D+1), or (D, D+1) for the whole batch; float32 or float64
    size: Sequence[int] | None = None,  # spatial size of the result; None: the image's
    *,
    labels: torch.Tensor | None = None,  # (B, C2, *image_spatial), integers
    padding: str = "zeros",
    fill: float = 0.0,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:  # (B, C, *size), the dtype of image; with labels (B, C2, *size), the dtype of labels
    """Pulls an image through an affine: `out(x) = image(A x + t)` with matrix = [A | t], and label maps likewise.

    x runs over the voxels of the result, A x + t is in voxels of the image, array axis order for both. No displacement is made: image and
    result are all that memory sees. Crops, pads, flips, turns and changes of the grid are each one matrix, and so are all of them together.

    image: linear. labels: the nearest voxel's, halves round up; for labels alone an image of no channels will do.
    padding: as warp's: "zeros" cells outside the image count as `fill`, labels as 0; "border" positions are clamped; "extent" voxels have a
        width: within half a voxel of the edge the edge's value, beyond that `fill` (labels 0).
    Positions are whole numbers of 2^-32 voxel, to which the matrix is rounded: exact from there on, so that every backend finds the same
    label. Sums are float32 (float64 for a float64 image). t counts up to 2^29 voxels, and entries of A up to 2^28 over the longest axis of
    the result; larger ones count as that. With a NaN in its matrix an image is NaN (labels 0; border: the first voxel's).

    Not differentiable, by the image or otherwise: it is what prepares images. The result never requires a gradient; warp's does.

    Raises ValueError for shapes and options, TypeError for dtypes.
    """
    dims = check.image(image, "image")
    if image.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise TypeError(f"image must be floating point, but came as {image.dtype}; convert it with .float(), or pass it as labels")
    if tuple(matrix.shape) not in ((dims, dims + 1), (image.shape[0], dims, dims + 1)):
        raise ValueError(
            f"matrix must be {(image.shape[0], dims, dims + 1)} or {(dims, dims + 1)} for images of {dims} axes, "
            f"but came as {tuple(matrix.shape)}"
        )
    if matrix.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"matrix must be float32 or float64, but came as {matrix.dtype}; convert it with .double()")
    check.same("device", image=image.device, matrix=matrix.device)
    size = list(image.shape[2:] if size is None else size)
    if len(size) != dims or min(size) < 0:
        raise ValueError(f"size must be {dims} numbers of voxels, none of them negative, but came as {tuple(size)}")
    pad = check.choice(padding, "padding", PADDINGS)
    if image.shape[2:].numel() == 0 and 0 not in size:
        raise ValueError(f"image must have at least one voxel on every axis, but came as {tuple(image.shape)}")
    if labels is not None:
        check.image(labels, "labels", dims)
        integers(labels, "labels")
        check.same("batch size", image=image.shape[0], labels=labels.shape[0])
        check.same("spatial size", image=tuple(image.shape[2:]), labels=tuple(labels.shape[2:]))
        check.same("device", image=image.device, labels=labels.device)
    matrices = matrix.detach().expand(image.shape[0], dims, dims + 1)
    moved = torch.ops.regkit.warp_affine(image.detach(), matrices, size, pad, fill)
    return moved if labels is None else (moved, torch.ops.regkit.warp_affine_nearest(labels, matrices, size, pad))


torch.library.define("regkit::warp_affine", "(Tensor image, Tensor matrix, SymInt[] size, int padding, float fill) -> Tensor")
torch.library.define("regkit::warp_affine_nearest", "(Tensor labels, Tensor matrix, SymInt[] size, int padding) -> Tensor")


@torch.library.register_fake("regkit::warp_affine")
def _fake(image, matrix, size, padding, fill):
    return image.new_empty((*image.shape[:2], *size))


@torch.library.register_fake("regkit::warp_affine_nearest")
def _fake_nearest(labels, matrix, size, padding):
    return labels.new_empty((*labels.shape[:2], *size))


def _cpp(image, matrix, size, padding, fill):
    source, matrices = image.contiguous(), matrix.double().contiguous()
    out = source.new_empty((*image.shape[:2], *size))
    if out.numel():  # not so for an image that only stands in front of labels
        native.function("warp_affine", image.dtype)(*_call(source, matrices, out), padding, fill, torch.get_num_threads())
    return out


def _cpp_nearest(labels, matrix, size, padding):
    source, matrices = labels.contiguous(), matrix.double().contiguous()
    out = source.new_empty((*labels.shape[:2], *size))
    launch = getattr(native.extension(), f"warp_affine_nearest_{8 * labels.element_size()}")
    launch(*_call(source, matrices, out), padding, torch.get_num_threads())
    return out


def _call(source: torch.Tensor, matrices: torch.Tensor, out: torch.Tensor) -> tuple:
    addresses = map(native.address, (source, matrices, out))
    return *addresses, matrices.shape[1], *source.shape[:2], native.sizes(source.shape[2:]), native.sizes(out.shape[2:])


register("warp_affine", reference=reference.warp_affine, cpp=_cpp, triton=triton_kernel("warp_affine", "warp_affine"))
register(
    "warp_affine_nearest",
    reference=reference.warp_affine_nearest,
    cpp=_cpp_nearest,
    triton=triton_kernel("warp_affine", "warp_affine_nearest"),
)
