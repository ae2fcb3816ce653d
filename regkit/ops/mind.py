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

    Neighbours are ordered -i, -k, -j, +k, +i, +j and channels are the pairs (later, earlier) among them, as ConvexAdam's before its last permutation.
    A constant image gives 1. The descriptors have the image's dtype; they are computed in float32 (float64 for float64). Differentiable once by the image:
    the exact derivative, with the mean of V that bounds it taken as a constant and, where distances tie, one of them as the minimum.

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


@torch.library.register_fake("regkit::mind_ssc")
def _fake(image, radius, dilation):
    return image.new_empty(_shape(image))


def _shape(image: torch.Tensor) -> tuple[int, ...]:
    return image.shape[0], 12 if image.dim() == 5 else 4, *image.shape[2:]


def _call(name: str, image: torch.Tensor, radius: int, dilation: int, out_dtype: torch.dtype, *tensors: torch.Tensor) -> None:
    native.function(name, out_dtype)(
        *map(native.address, tensors), image.dim() - 2, image.shape[0], native.sizes(image.shape[2:]), radius, dilation, torch.get_num_threads()
    )


def _cpp(image, radius, dilation):
    x = image.to(native.working_dtype(image)).contiguous()
    out = image.new_empty(_shape(image))
    _call("mind_ssc", image, radius, dilation, image.dtype, x, out)
    return out


register("mind_ssc", reference=reference.mind_ssc, cpp=_cpp)
