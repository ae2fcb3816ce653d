"""The authors' LapIRN checkpoints: their keys, and the order of their field's components.

They nest level 1 in level 2 in level 3 (`model_lvl2.model_lvl1.`), and a field's channel 0 lies along the last array axis, as torch's
grid_sample has it; here levels are a list, and channel d lies along axis d. So the weights that write or read a field are flipped once.
"""

import re
from collections.abc import Mapping

import torch

_NAMES = {
    "input_encoder_lvl1.0": "encode.0",
    "input_encoder_lvl1.2": "encode.1",
    "down_conv": "down",
    "up": "up",
    "output_lvl1.0": "head.0",
    "output_lvl1.2": "head.1",
}
_BLOCK = re.compile(r"resblock_group_lvl1\.(\d+)\.conv([12])")
_BUFFERS = re.compile(r"(^|\.)(grid_1|transform\.|diff_transform\.)")


def from_original_keys(state_dict: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], int, int, int]:
    """The weights under LapIRN's keys; levels, channels and axes of the network.

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
        layer, _, kind = name.rpartition(".")
        block = _BLOCK.fullmatch(layer)
        if kind != "weight" or not (block or layer in _NAMES):
            raise ValueError(f"{key} is not a key of LapIRN; give the state_dict of one of the authors' checkpoints")
        # The blocks' Sequential counts the activations between them too.
        ours = f"blocks.{int(block[1]) // 2}.convolutions.{int(block[2]) - 1}" if block else _NAMES[layer]
        dims = tensor.dim() - 2
        if ours == "head.1":
            tensor = tensor.flip(0)
        if ours == "encode.0" and level > 1:
            tensor = torch.cat([tensor[:, :2], tensor[:, 2:].flip(1)], 1)
        converted[f"levels.{level - 1}.{ours}.weight"] = tensor.contiguous()
    if not converted:
        raise ValueError("the state_dict holds no weights of a LapIRN")
    channels = next(tensor.shape[0] for key, tensor in converted.items() if key.endswith("down.weight"))
    return converted, levels, channels, dims
