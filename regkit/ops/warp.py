"""warp: samples an image at displaced positions."""

from collections.abc import Callable

import torch

from regkit import reference
from regkit.kernels import fixed_point
from regkit.ops import check, cuda, native
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
    (linear), or `fill` (nearest; border: the first voxel). The gradient of an image lies channels last where the image does, and channels
    come in fours, of which a GPU then adds four at once; else it is contiguous.

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
    grad_image = torch.empty_like(image, memory_format=_format(image)) if need_image else image.new_empty(0)
    return grad_image, displacement.new_empty(displacement.shape if need_displacement else 0)


def _format(image: torch.Tensor) -> torch.memory_format:
    """How the image's gradient lies: channels last where the image does and channels come in fours, which a kernel adds at once."""
    last = torch.channels_last if image.dim() == 4 else torch.channels_last_3d
    in_fours = image.shape[1] % 4 == 0 and not image.is_contiguous() and image.is_contiguous(memory_format=last)
    return last if in_fours else torch.contiguous_format


def _formatted(backward: Callable | None) -> Callable | None:
    """The backward, its gradient of the image as the fake says that it lies."""

    def call(grad, image, displacement, padding, fill, need_image, need_displacement):
        grad_image, grad_u = backward(grad, image, displacement, padding, fill, need_image, need_displacement)
        return grad_image.contiguous(memory_format=_format(image)) if need_image else grad_image, grad_u

    return backward and call


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


def _cuda(image, displacement, padding, fill):
    stored, working = _stored_and_working(image, displacement)
    m, u = image.to(stored).contiguous(), displacement.to(working).contiguous()
    out = m.new_empty((*image.shape[:2], *displacement.shape[2:]))
    cuda.run(cuda.of_type("warp", stored), m, u, out, *_geometry(image, displacement), padding, fill, device=image.device)
    return out.to(image.dtype)


def _cuda_backward(grad, image, displacement, padding, fill, need_image, need_displacement):
    stored, working = _stored_and_working(image, displacement)
    u, geometry = displacement.to(working).contiguous(), _geometry(image, displacement)
    grad_image, grad_u = image.new_empty(0), displacement.new_empty(0)
    if need_image:
        in_fours = _format(image) != torch.contiguous_format and working == torch.float32
        if in_fours and not torch.are_deterministic_algorithms_enabled():
            grad_image = _cuda_grad_image_last(grad.to(stored), image, u, geometry, padding).to(image.dtype)
        else:
            grad_image = _cuda_grad_image(grad.to(stored).contiguous(), u, geometry, padding).view(image.shape).to(image.dtype)
    if need_displacement:
        g, m, out = grad.to(stored).contiguous(), image.to(stored).contiguous(), torch.empty_like(u)
        cuda.run(cuda.of_type("warp_grad_displacement", stored), g, m, u, out, *geometry, padding, fill, device=image.device)
        grad_u = out.to(displacement.dtype)
    return grad_image, grad_u


def _cuda_grad_image(g, u, geometry, padding):
    """Sums of a scatter: floats in any order, or in deterministic mode whole numbers of a unit, which no order changes."""
    _, batch, channels, size, _ = geometry
    if not torch.are_deterministic_algorithms_enabled():
        out = u.new_zeros((batch, channels, *size))
        cuda.run(cuda.of_type("warp_grad_image", g.dtype), g, u, out, *geometry, padding, None, device=u.device)
        return out
    # A NaN displacement, which has no whole number of units, makes the whole gradient NaN.
    largest = g.abs().amax().to(u.dtype) + 0 * u.sum() if g.numel() else u.new_zeros(())
    unit = fixed_point.unit(largest, u[0, 0].numel() if u.numel() else 1)
    out = torch.zeros((batch, channels, *size), dtype=torch.int64, device=u.device)
    cuda.run(cuda.of_type("warp_grad_image_fixed", g.dtype), g, u, unit, out, *geometry, padding, device=u.device)
    return out * unit


def _cuda_grad_image_last(g, image, u, geometry, padding):
    """Sums that lie channels last, of a gradient that lies in either way."""
    grad_last = not g.is_contiguous()
    g = g.contiguous(memory_format=_format(image)) if grad_last else g
    out = torch.zeros_like(image, dtype=u.dtype, memory_format=_format(image))
    cuda.run(cuda.of_type("warp_grad_image_last", g.dtype), g, grad_last, u, out, *geometry, padding, device=u.device)
    return out


def _cuda_nearest(image, displacement, padding, fill):
    m, u = image.contiguous(), displacement.float().contiguous()
    out = m.new_empty((*image.shape[:2], *displacement.shape[2:]))
    outside = torch.full((), fill, dtype=torch.float64, device=image.device).to(image.dtype)
    launcher = cuda.of_type("warp_nearest", 8 * image.element_size())
    cuda.run(launcher, m, u, out, *_geometry(image, displacement), padding, outside, device=image.device)
    return out


register("warp", reference=reference.warp, cpp=_cpp, cuda=cuda.kernel(_cuda), triton=triton_kernel("warp", "warp"))
register(
    "warp_backward",
    reference=_formatted(reference.warp_backward),
    cpp=_formatted(_cpp_backward),
    cuda=_formatted(cuda.kernel(_cuda_backward)),
    triton=_formatted(triton_kernel("warp", "warp_backward")),
)
register(
    "warp_nearest",
    reference=reference.warp_nearest,
    cpp=_cpp_nearest,
    cuda=cuda.kernel(_cuda_nearest),
    triton=triton_kernel("warp", "warp_nearest"),
)


def _setup_context(ctx, inputs, output):
    image, displacement, ctx.padding, ctx.fill = inputs
    ctx.save_for_backward(image, displacement)


def _backward(ctx, grad):
    image, displacement = ctx.saved_tensors
    need_image, need_displacement = ctx.needs_input_grad[:2]
    grad_image, grad_u = torch.ops.regkit.warp_backward(grad, image, displacement, ctx.padding, ctx.fill, need_image, need_displacement)
    return grad_image if need_image else None, grad_u if need_displacement else None, None, None


torch.library.register_autograd("regkit::warp", _backward, setup_context=_setup_context)
