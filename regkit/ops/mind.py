"""mind_ssc: modality independent neighbourhood descriptors, self-similarity context."""

import torch

from regkit import reference
from regkit.ops import check, native
from regkit.ops.backends import register


def mind_ssc(image: torch.Tensor, *, radius: int = 1, dilation: int = 2) -> torch.Tensor:  # (B, 1, *spatial) -> (B, 12 or 4, *spatial)
    """MIND-SSC descriptors: 12 channels in 3-D, 4 in 2-D, each 0 (unlike) to 1 (the most alike pair).

    Channel c compares two of the voxel's face neighbours s, s' at distance `dilation` voxels that are not opposite to each other:

        D_c = mean over the (2 radius + 1)^D box of (image(x + s) - image(x + s'))^2       borders replicated
        q_c = D_c - min_c D_c,   V = mean_c q_c clamped to [1e-3, 1e3] * mean(V of this image),   mind_c = exp(-q_c / V)

    Neighbours are ordered -i, -k, -j, +k, +i, +j and channels are the pairs (later, earlier) among them, as ConvexAdam's before its last
    permutation. A constant image gives 1. The descriptors have the image's dtype; they are computed in float32 (float64 for float64).
    Differentiable once by the image: the exact derivative, with the mean of V that bounds it taken as a constant and, where distances tie,
    one of them as the minimum.

    Source: Heinrich et al., MICCAI 2013; box form, radius 1 and dilation 2 as in ConvexAdam.
    Raises ValueError for shapes and options, TypeError for dtypes.
    """
    check.image(image, "image")
    check.floating(image, "image")
    if image.shape[1] != 1:
        raise ValueError(f"image must have one channel, (B, 1, *spatial), but came as {tuple(image.shape)}")
    check.at_least(radius, "radius", 0)
    check.at_least(dilation, "dilation", 1)
    return torch.ops.regkit.mind_ssc(image, radius, dilation)


torch.library.define("regkit::mind_ssc", "(Tensor image, int radius, int dilation) -> Tensor")
torch.library.define("regkit::mind_ssc_backward", "(Tensor grad, Tensor image, int radius, int dilation) -> Tensor")


@torch.library.register_fake("regkit::mind_ssc")
def _fake(image, radius, dilation):
    return image.new_empty(_shape(image))


@torch.library.register_fake("regkit::mind_ssc_backward")
def _fake_backward(grad, image, radius, dilation):
    return image.new_empty(image.shape)


def _shape(image: torch.Tensor) -> tuple[int, ...]:
    return image.shape[0], 12 if image.dim() == 5 else 4, *image.shape[2:]


def _arguments(image: torch.Tensor, radius: int, dilation: int) -> tuple:
    """What every launcher takes after its addresses."""
    return image.dim() - 2, image.shape[0], native.sizes(image.shape[2:]), radius, dilation, torch.get_num_threads()


def _cpp(image, radius, dilation):
    x, out = image.to(native.working_dtype(image)).contiguous(), image.new_empty(_shape(image))
    native.function("mind_ssc", image.dtype)(native.address(x), native.address(out), *_arguments(image, radius, dilation))
    return out


def _cpp_backward(grad, image, radius, dilation):
    dtype = native.working_dtype(image)
    g, x = grad.to(dtype).contiguous(), image.to(dtype).contiguous()
    out = torch.empty_like(x)
    native.function("mind_ssc_backward", dtype)(*map(native.address, (g, x, out)), *_arguments(image, radius, dilation))
    return out.to(image.dtype)


register("mind_ssc", reference=reference.mind_ssc, cpp=_cpp)
register("mind_ssc_backward", reference=reference.mind_ssc_backward, cpp=_cpp_backward)


def _setup_context(ctx, inputs, output):
    image, ctx.radius, ctx.dilation = inputs
    ctx.save_for_backward(image)


def _backward(ctx, grad):
    return torch.ops.regkit.mind_ssc_backward(grad, *ctx.saved_tensors, ctx.radius, ctx.dilation), None, None


torch.library.register_autograd("regkit::mind_ssc", _backward, setup_context=_setup_context)
