"""mind_ssc: modality independent neighbourhood descriptors, self-similarity context."""

import torch

from regkit import reference
from regkit.ops import check, native
from regkit.ops.backends import register, triton_kernel

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def mind_ssc(
    image: torch.Tensor,  # (B, 1, *spatial)
    *,
    radius: int = 1,
    dilation: int = 2,
    pool: int = 1,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
) -> torch.Tensor:  # (B, 12 or 4, *(n // pool for n in spatial))
    """MIND-SSC descriptors: 12 channels in 3-D, 4 in 2-D, each 0 (unlike) to 1 (the most alike pair).

    Channel c compares two of the voxel's face neighbours s, s' at distance `dilation` voxels that are not opposite to each other:

        D_c = mean over the (2 radius + 1)^D box of (image(x + s) - image(x + s'))^2       borders replicated
        q_c = D_c - min_c D_c,   V = mean_c q_c clamped to [1e-3, 1e3] * mean(V of this image),   mind_c = exp(-q_c / V)

    Neighbours are ordered -i, -k, -j, +k, +i, +j and channels are the pairs (later, earlier) among them, as ConvexAdam's before its last
    permutation. A constant image gives 1. Computed in float32 (float64 for float64).
    Differentiable once by the image: the exact derivative, with the mean of V that bounds it taken as a constant and, where distances tie,
    one of them as the minimum.

    pool: means over blocks of pool^D voxels are returned, as average pooling would give (voxels that fill no block are left out); where
        coarse features are wanted, the fine ones need no memory.
    dtype: of the descriptors; the image's by default. Halves lose nothing that a cost volume would see.
    channels_last: whether they lie in memory in torch.channels_last(_3d) order, a voxel's channels side by side, as one who compares
        voxels wants them; the shape is the same.

    Source: Heinrich et al., MICCAI 2013; box form, radius 1 and dilation 2 as in ConvexAdam.
    Raises ValueError for shapes and options, TypeError for dtypes.
    """
    check.image(image, "image")
    check.floating(image, "image")
    if image.shape[1] != 1:
        raise ValueError(f"image must have one channel, (B, 1, *spatial), but came as {tuple(image.shape)}")
    check.at_least(radius, "radius", 0)
    check.at_least(dilation, "dilation", 1)
    check.at_least(pool, "pool", 1)
    dtype = image.dtype if dtype is None else dtype
    if dtype not in (*DTYPES, image.dtype):
        raise TypeError(f"dtype must be one of {', '.join(map(str, DTYPES))}, or the image's, but came as {dtype}")
    return torch.ops.regkit.mind_ssc(image, radius, dilation, pool, dtype, channels_last)


torch.library.define(
    "regkit::mind_ssc", "(Tensor image, int radius, int dilation, int pool, ScalarType dtype, bool channels_last) -> Tensor"
)
torch.library.define("regkit::mind_ssc_backward", "(Tensor grad, Tensor image, int radius, int dilation, int pool) -> Tensor")


def _empty(image: torch.Tensor, pool: int, dtype: torch.dtype, channels_last: bool) -> torch.Tensor:
    """Fresh descriptors of an image."""
    shape = image.shape[0], 12 if image.dim() == 5 else 4, *(n // pool for n in image.shape[2:])
    return torch.empty(shape, dtype=dtype, device=image.device, memory_format=_format(image, channels_last))


def _format(x: torch.Tensor, channels_last: bool) -> torch.memory_format:
    if not channels_last:
        return torch.contiguous_format
    return torch.channels_last_3d if x.dim() == 5 else torch.channels_last


@torch.library.register_fake("regkit::mind_ssc")
def _fake(image, radius, dilation, pool, dtype, channels_last):
    return _empty(image, pool, dtype, channels_last)


@torch.library.register_fake("regkit::mind_ssc_backward")
def _fake_backward(grad, image, radius, dilation, pool):
    return image.new_empty(image.shape)


def _arguments(image: torch.Tensor, radius: int, dilation: int, pool: int, channels_last: bool) -> tuple:
    """What every launcher takes after its addresses."""
    sizes = image.dim() - 2, image.shape[0], native.sizes(image.shape[2:])
    return *sizes, radius, dilation, pool, channels_last, torch.get_num_threads()


def _cpp(image, radius, dilation, pool, dtype, channels_last):
    working = native.working_dtype(image)
    stored = torch.float64 if working == torch.float64 else dtype  # the kernel stores float64 as such alone: it is for checks
    x, out = image.to(working).contiguous(), _empty(image, pool, stored, channels_last)
    native.function("mind_ssc", stored)(*map(native.address, (x, out)), *_arguments(image, radius, dilation, pool, channels_last))
    return out.to(dtype)


def _cpp_backward(grad, image, radius, dilation, pool):
    working = native.working_dtype(image)
    stored = torch.float64 if working == torch.float64 else grad.dtype
    channels_last = not grad.is_contiguous() and grad.is_contiguous(memory_format=_format(image, True))
    g, x = grad.to(stored).contiguous(memory_format=_format(image, channels_last)), image.to(working).contiguous()
    out = torch.empty_like(x)
    native.function("mind_ssc_backward", stored)(
        *map(native.address, (g, x, out)), *_arguments(image, radius, dilation, pool, channels_last)
    )
    return out.to(image.dtype)


register("mind_ssc", reference=reference.mind_ssc, cpp=_cpp, triton=triton_kernel("mind", "mind_ssc"))
register(
    "mind_ssc_backward",
    reference=reference.mind_ssc_backward,
    cpp=_cpp_backward,
    triton=triton_kernel("mind", "mind_ssc_backward"),
)


def _setup_context(ctx, inputs, output):
    image, ctx.radius, ctx.dilation, ctx.pool, *_ = inputs
    ctx.save_for_backward(image)


def _backward(ctx, grad):
    return torch.ops.regkit.mind_ssc_backward(grad, *ctx.saved_tensors, ctx.radius, ctx.dilation, ctx.pool), *(None,) * 5


torch.library.register_autograd("regkit::mind_ssc", _backward, setup_context=_setup_context)
