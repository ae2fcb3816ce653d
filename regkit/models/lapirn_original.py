"""The authors' LapIRN checkpoints, conditional ones too: their keys, and the order of their field's components.

They nest level 1 in level 2 in level 3 (`model_lvl2.model_lvl1.`), and a field's channel 0 lies along the last array axis, as torch's
grid_sample has it; here levels are a list, and channel d lies along axis d. So the weights that write or read a field are flipped once.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

_NAMES = {
    "input_encoder_lvl1.0.weight": "encode.0.weight",
    "input_encoder_lvl1.2.weight": "encode.1.weight",
    "down_conv.weight": "down.weight",
    "up.weight": "up.weight",
    "output_lvl1.0.weight": "head.0.weight",
    "output_lvl1.2.weight": "head.1.weight",
}
_BLOCK = re.compile(r"resblock_group_lvl1\.(\d+)\.(.+)")
_IN_BLOCK = (
    (re.compile(r"conv([12])\.weight"), lambda found: f"convolutions.{int(found[1]) - 1}.weight"),
    (re.compile(r"ai([12])\.style\.(weight|bias)"), lambda found: f"styles.{int(found[1]) - 1}.{found[2]}"),
    (re.compile(r"mapping\.([0246])\.(weight|bias)"), lambda found: found[0]),
)
_BUFFERS = re.compile(r"(^|\.)(grid_1|transform\.|diff_transform\.)")


def from_original_keys(state_dict: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights under LapIRN's keys, and the arguments of the network that they tell: levels, start_channels, dims and lite.

    Raises ValueError for a key that no LapIRN has.
    """
    levels = 1 + max((key.count("model_lvl") for key in state_dict), default=0)
    converted = {}
    for key, tensor in state_dict.items():
        nested = re.findall(r"model_lvl(\d+)\.", key)
        level = int(nested[-1]) if nested else levels
        name = re.sub(r"model_lvl\d+\.", "", key)
        if _BUFFERS.search(name):
            continue
        if nested != [str(n) for n in range(levels - 1, level - 1, -1)]:
            raise ValueError(f"{key} is not a key of a LapIRN with {levels} levels")
        ours = _renamed(name)
        if ours is None:
            raise ValueError(f"{key} is not a key of LapIRN; give the state_dict of one of the authors' checkpoints")
        if ours == "head.1.weight":
            tensor = tensor.flip(0)
        if ours == "encode.0.weight" and level > 1:
            tensor = torch.cat([tensor[:, :2], tensor[:, 2:].flip(1)], 1)
        converted[f"levels.{level - 1}.{ours}"] = tensor.contiguous()
    down = converted.get("levels.0.down.weight")
    if down is None:
        raise ValueError("the state_dict holds no weights of a LapIRN")
    options = {"levels": levels, "start_channels": down.shape[0] // 4, "dims": down.dim() - 2, "lite": down.shape[1] < down.shape[0]}
    return converted, options


def _renamed(name: str) -> str | None:
    """Our name of a level's weight; None for what a level doesn't have."""
    block = _BLOCK.fullmatch(name)
    if block is None:
        return _NAMES.get(name)
    for pattern, rename in _IN_BLOCK:
        if found := pattern.fullmatch(block[2]):
            return f"blocks.{int(block[1]) // 2}.{rename(found)}"  # the authors count the activations between the blocks too
    return None
