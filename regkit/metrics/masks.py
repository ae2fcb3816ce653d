"""Masks as the metrics see them."""

import numpy as np
import torch

from regkit.errors import InputError


def mask_array(mask: object, spatial: tuple[int, ...]) -> np.ndarray | None:
    """A mask (Image, array or tensor, leading singleton axes allowed) as a bool array of shape `spatial`; None stays None."""
    if mask is None:
        return None
    array = mask.data if hasattr(mask, "grid") else mask
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu().numpy()
    array = np.asarray(array)
    while array.ndim > len(spatial) and array.shape[0] == 1:
        array = array[0]
    if array.shape != spatial:
        raise InputError(f"the mask has shape {array.shape} and the displacement {spatial}; give a mask on the displacement's grid")
    return array != 0
