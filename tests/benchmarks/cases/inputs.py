"""Inputs that several cases share: smooth, as scans and displacements are, with some noise on the images. All seeded, on the CPU."""

import torch
import torch.nn.functional as F

from tests.benchmarks.case import Size


def smooth(components: int, size: Size, generator: torch.Generator, coarseness: int = 16) -> torch.Tensor:
    """(batch, components, *spatial), about normally distributed."""
    coarse = torch.randn(size.batch, components, *(max(2, n // coarseness) for n in size.spatial), generator=generator)
    return F.interpolate(coarse, size=size.spatial, mode="trilinear" if size.dims == 3 else "bilinear", align_corners=True)


def noise(components: int, size: Size, generator: torch.Generator) -> torch.Tensor:
    """(batch, components, *spatial) of 0 to 1; an incoming gradient."""
    return torch.rand(size.batch, components, *size.spatial, generator=generator)


def image(size: Size, generator: torch.Generator) -> torch.Tensor:
    return smooth(size.channels, size, generator).add_(noise(size.channels, size, generator), alpha=0.2)


def displacement(size: Size, generator: torch.Generator) -> torch.Tensor:
    """Of about 3 voxels."""
    return 3 * smooth(size.dims, size, generator)


def one_image(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {"image": image(size, generator)}


def two_images(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {"a": image(size, generator), "b": image(size, generator)}


def image_and_displacement(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {"image": image(size, generator), "u": displacement(size, generator)}


def one_displacement(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {"u": displacement(size, generator)}


def two_displacements(size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {"u": displacement(size, generator), "v": displacement(size, generator)}
