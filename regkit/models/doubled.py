"""A convolution of features on a doubled grid, beside others that lie on the fine grid: the step of a U-Net's decoder."""

import torch
import torch.nn.functional as F
from torch import nn

TRANSPOSE = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """x (B, C, *spatial), on a CPU with a voxel's channels side by side: oneDNN then reorders nothing, and gives its results so."""
    return x.contiguous(memory_format=CHANNELS_LAST[x.dim() - 2]) if x.device.type == "cpu" else x


def doubled_convolution(convolution: nn.Conv2d | nn.Conv3d, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    """convolution(cat([coarse on the doubled grid, fine], 1)): (B, C, *n) and (B, F, *2 n) to (B, O, *2 n).

    convolution: of C + F channels, and of 3^D voxels with a border of 1, or of 1^D.

    In bfloat16 on a CPU neither the doubled features nor the joined ones are made (`on_coarse_grid`); nor with a kernel of 1^D.
    In float32 oneDNN's transposed convolution is slower than the plain one with channels side by side: a VoxelMorph step takes 1.3 times
    as long with it, in bfloat16 0.6 times.
    """
    if coarse.device.type == "cpu" and (set(convolution.kernel_size) == {1} or _computed_in(coarse) == torch.bfloat16):
        return on_coarse_grid(convolution, coarse, fine)
    return convolution(channels_last(torch.cat([doubled(coarse), fine], 1)))


def on_coarse_grid(convolution: nn.Conv2d | nn.Conv3d, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    """`doubled_convolution` without the features on the doubled grid.

    Of 3^D voxels on a doubled grid only 2^D differ, and which are equal depends on whether the voxel's index is even; both cases together
    are a transposed convolution of stride 2, whose kernel of 4^D voxels sums up the weights that meet the same voxel: 27 multiplications
    become 8 in 3-D. Of VoxelMorph's largest layer (32 + 2 to 32 channels, bfloat16) forward and backward take a fifth of the time.
    """
    dims, channels = coarse.dim() - 2, coarse.shape[1]
    beside = convolution._conv_forward(fine, convolution.weight[:, channels:], convolution.bias)
    weight = convolution.weight[:, :channels]
    if convolution.kernel_size == (1,) * dims:
        return beside + doubled(convolution._conv_forward(coarse, weight, None))
    return beside + TRANSPOSE[dims](coarse, _summed(weight), stride=2, padding=1)


def _computed_in(x: torch.Tensor) -> torch.dtype:
    """The type that a convolution of x computes in, autocast or not."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


def doubled(x: torch.Tensor) -> torch.Tensor:
    """(B, C, *n) to (B, C, *2 n), every voxel 2^D times."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _summed(weight: torch.Tensor) -> torch.Tensor:
    """(O, C, *3^D) to the transposed convolution's (C, O, *4^D).

    Along an axis, voxel o of the fine grid sees x[i] with w[2 i - o + 1] and w[2 i - o + 2], as far as w has them; a transposed convolution
    gives it k[o - 2 i + 1]. So k[j] = w[2 - j] + w[3 - j].
    """
    axes = range(2, weight.dim())
    kernel = weight.transpose(0, 1).flip(*axes)
    for axis in axes:
        border = [0, 0] * (weight.dim() - 1 - axis)
        kernel = F.pad(kernel, (*border, 0, 1)) + F.pad(kernel, (*border, 1, 0))
    return kernel
