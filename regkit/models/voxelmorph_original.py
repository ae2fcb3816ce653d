"""The keys of the authors' torch VoxelMorph checkpoints, of before (`downarm`, `uparm`, `extras`) and since 2021 (`encoder`, ...).

The field is in voxels and in axis order there too, so the weights stay as they are.
"""

import re
from collections.abc import Mapping

import torch

_STRIDED = re.compile(r"unet_model\.(downarm|uparm|extras)\.(\d+)\.main\.(weight|bias)")
_POOLED = re.compile(r"unet_model\.(?:(encoder|decoder)\.(\d+)\.0|(remaining)\.(\d+))\.main\.(weight|bias)")
_FLOW = re.compile(r"flow\.(weight|bias)")
_PARTS = {"downarm": "encode", "uparm": "decode", "extras": "full", "encoder": "encode", "decoder": "decode", "remaining": "full"}


def from_original_keys(state_dict: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], bool]:
    """The weights under VoxelMorph's keys; whether the network halves by pooling.

    Raises ValueError for a key that no VxmDense has.
    """
    converted, kinds = {}, set()
    for key, tensor in state_dict.items():
        if key.endswith(".grid"):  # identity grids are made anew
            continue
        strided, pooled = _STRIDED.fullmatch(key), _POOLED.fullmatch(key)
        if strided is None and pooled is None and not _FLOW.fullmatch(key):
            raise ValueError(f"{key} is not a key of VxmDense; give the model_state of one of the authors' torch checkpoints")
        if found := strided or pooled:
            kinds.add(bool(pooled))
            part, number, kind = (group for group in found.groups() if group is not None)
            key = f"{_PARTS[part]}.{number}.{kind}"
        converted[key] = tensor
    if len(kinds) != 1:
        raise ValueError("the state_dict must hold the weights of one VxmDense")
    return converted, kinds.pop()
