"""Images and label maps through an affine: torch's affine_grid and grid_sample, and MONAI's layer of the two."""

import warnings

import torch
import torch.nn.functional as F


def normalised(image: torch.Tensor, labels: torch.Tensor, matrix: torch.Tensor) -> dict[str, torch.Tensor]:
    """The matrix as affine_grid wants it: last axis first, of positions from -1 to 1."""
    half = (torch.tensor(image.shape[2:], device=matrix.device, dtype=torch.float64) - 1) / 2
    linear, shift = matrix[..., :-1].double(), matrix[..., -1].double()
    shift = (linear @ half + shift) / half - 1
    linear = linear * half / half[:, None]
    theta = torch.cat([linear.flip(-2, -1), shift.flip(-1)[..., None]], -1)
    return {"image": image, "labels": labels, "matrix": theta.to(image.dtype)}


def sample(image: torch.Tensor, labels: torch.Tensor, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    grid = F.affine_grid(matrix, image.shape, align_corners=True)
    moved = F.grid_sample(labels.to(image.dtype), grid, mode="nearest", align_corners=True)
    return F.grid_sample(image, grid, align_corners=True), moved.to(labels.dtype)


def monai_layers(image: torch.Tensor, labels: torch.Tensor, matrix: torch.Tensor) -> dict:
    """For `call_monai`: a layer for the image and one for labels, and the matrix as they want it: homogeneous."""
    from monai.networks.layers import AffineTransform

    last = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)[-1:].expand(matrix.shape[0], 1, -1)
    options = {"normalized": False, "padding_mode": "zeros", "align_corners": True, "zero_centered": False}
    with warnings.catch_warnings(action="ignore"):
        layers = [AffineTransform(mode=mode, **options) for mode in ("bilinear", "nearest")]
    return {"image": image, "labels": labels, "matrix": torch.cat([matrix, last], 1).to(image.dtype), "layers": layers}


def call_monai(image: torch.Tensor, labels: torch.Tensor, matrix: torch.Tensor, layers: list) -> tuple[torch.Tensor, torch.Tensor]:
    return layers[0](image, matrix), layers[1](labels.to(image.dtype), matrix).to(labels.dtype)
