"""warp: samples an image at displaced positions."""

import torch

from regkit import reference
from regkit.ops import check, native
from regkit.ops.backends import register, triton_kernel

MODES = ("linear", "nearest")
PADDINGS = ("zeros", "border", "extent")


def warp(
    image: torch.Tensor,  # (B, C, *image_spatial)
    displacement: torch.Tensor,  # (B, D, *spatial), voxels
    *,
    mode: str = "linear",
    padding: str = "zeros",
    fill: float = 0.0,
) -> torch.Tensor:  # (B, C, *spatial)
    """Pulls an image through a displacement: `out(x) = image(x + u(x))`.

    x runs over the voxels of the displacement, component d of u is in voxels along array axis d; the image may have another size than
    the displacement. Linear: `y = sum_i w_i image(floor(x+u)+i)`. Differentiable once by displacement and image (linear only).

    mode: "linear" (floating point images), or "nearest" (any dtype, kept; halves round up) for labels.
    padding: "zeros" cells outside the image count as `fill`; "border" coordinates are clamped (gradient 0 strictly outside); "extent"
        voxels have a width: within half a voxel of the edge the edge's value, beyond that `fill` (ITK's rule).
    Coordinates and sums are float32 (float64 if an input is float64); the result has the image's dtype. A NaN displacement gives NaN
    (linear), or `fill` (nearest; border: the first voxel).

    Raises ValueError for shapes and options, TypeError for dtypes.
    """
    dims = check.displacement(displacement)
    check.image(image, "image", dims)
    check.same("batch size", image=image.shape[0], displacement=displacement.shape[0])
    check.same("device", image=image.device, displacement=displacement.device)
    pad = check.choice(padding, "padding", PADDINGS)
    if min(image.shape[2:]) == 0 and displacement.numel():
        raise ValueError(f"image must have at least one voxel on every axis, but came as {tuple(image.shape)}")
    if check.choice(mode, "mode", MODES):
        return torch.ops.regkit.warp_nearest(image.detach(), displacement.detach(), pad, fill)
    check.floating(image, "image")
    return torch.ops.regkit.warp(image, displacement, pad, fill)


torch.library.define("regkit::warp", "(Tensor image, Tensor displacement, int padding, float fill) -> Tensor")
torch.library.define(
    "regkit::warp_backward",
    "(Tensor grad, Tensor image, Tensor displacement, int padding, float fill, bool need_image, bool need_displacement) "
    "-> (Tensor, Tensor)",
)
torch.library.define("regkit::warp_nearest", "(Tensor image, Tensor displacement, int padding, float fill) -> Tensor")


@torch.library.register_fake("regkit::warp")
@torch.library.register_fake("regkit::warp_nearest")
def _fake(image, displacement, padding, fill):
    return image.new_empty((*image.shape[:2], *displacement.shape[2:]))


@torch.library.register_fake("regkit::warp_backward")
def _fake_backward(grad, image, displacement, padding, fill, need_image, need_displacement):
    return image.new_empty(image.shape if need_image else 0), displacement.new_empty(displacement.shape if need_displacement else 0)


def _geometry(image: torch.Tensor, displacement: torch.Tensor) -> tuple:
    return displacement.shape[1], image.shape[0], image.shape[1], native.sizes(image.shape[2:]), native.sizes(displacement.shape[2:])


def _stored_and_working(image: torch.Tensor, displacement: torch.Tensor) -> tuple[torch.dtype, torch.dtype]:
    """How the kernels read the image, and what they compute in: halves are read as they are, unless the displacement is float64."""
    working = native.working_dtype(image, displacement)
    return working if working == torch.float64 else image.dtype, working


def _cpp(image, displacement, padding, fill):
    stored, working = _stored_and_working(image, displacement)
    m, u = image.to(stored).contiguous(), displacement.to(working).contiguous()
    out = m.new_empty((*image.shape[:2], *displacement.shape[2:]))
    native.function("warp", stored)(
        native.address(m),
        native.address(u),
        native.address(out),
        *_geometry(image, displacement),
        padding,
        fill,
        torch.get_num_threads(),
    )
    return out.to(image.dtype)


def _cpp_backward(grad, image, displacement, padding, fill, need_image, need_displacement):
    stored, working = _stored_and_working(image, displacement)
    u = displacement.to(working).contiguous()
    threads, geometry = torch.get_num_threads(), _geometry(image, displacement)
    grad_image, grad_u = image.new_empty(0), displacement.new_empty(0)
    if need_image:
        g = grad.to(working).contiguous()
        out = g.new_empty(image.shape)
        native.function("warp_grad_image", working)(native.address(g), native.address(u), native.address(out), *geometry, padding, threads)
        grad_image = out.to(image.dtype)
    if need_displacement:
        g, m, out = grad.to(stored).contiguous(), image.to(stored).contiguous(), torch.empty_like(u)
        native.function("warp_grad_displacement", stored)(
            native.address(g), native.address(m), native.address(u), native.address(out), *geometry, padding, fill, threads
        )
        grad_u = out.to(displacement.dtype)
    return grad_image, grad_u


def _cpp_nearest(image, displacement, padding, fill):
    m, u = image.contiguous(), displacement.float().contiguous()
    out = m.new_empty((*image.shape[:2], *displacement.shape[2:]))
    outside = torch.tensor(fill).to(image.dtype)
    launch = getattr(native.extension(), f"warp_nearest_{8 * image.element_size()}")
    launch(
        native.address(m),
        native.address(u),
        native.address(out),
        *_geometry(image, displacement),
        padding,
        native.address(outside),
        torch.get_num_threads(),
    )
    return out


register("warp", reference=reference.warp, cpp=_cpp, triton=triton_kernel("warp", "warp"))
register("warp_backward", reference=reference.warp_backward, cpp=_cpp_backward, triton=triton_kernel("warp", "warp_backward"))
register("warp_nearest", reference=reference.warp_nearest, cpp=_cpp_nearest, triton=triton_kernel("warp", "warp_nearest"))


def _setup_context(ctx, inputs, output):
    image, displacement, ctx.padding, ctx.fill = inputs
    ctx.save_for_backward(image, displacement)


def _backward(ctx, grad):
    image, displacement = ctx.saved_tensors
    need_image, need_displacement = ctx.needs_input_grad[:2]
    grad_image, grad_u = torch.ops.regkit.warp_backward(grad, image, displacement, ctx.padding, ctx.fill, need_image, need_displacement)
    return grad_image if need_image else None, grad_u if need_displacement else None, None, None


torch.library.register_autograd("regkit::warp", _backward, setup_context=_setup_context)
