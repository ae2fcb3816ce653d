"""diffusion_energy, bending_energy, jacobian_*, smooth, upsample: append an OpCase to CASES (see __init__.py)."""

import torch
import torch.nn.functional as F

from regkit import ops
from tests.benchmarks.case import OpCase, Peer, Size
from tests.benchmarks.cases import inputs
from tests.benchmarks.peers import differences, voxelmorph


def coarse_displacement(size: Size, generator: torch.Generator) -> dict:
    """A displacement at a quarter of the resolution, and a gradient of the fine one."""
    coarse = torch.randn(size.batch, size.dims, *(max(2, n // 4) for n in size.spatial), generator=generator)
    return {"coarse": coarse, "grad_out": inputs.noise(size.dims, size, generator), "size": size.spatial}


def upsample(coarse: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    return ops.upsample(coarse, size, [(n - 1) / (c - 1) for n, c in zip(size, coarse.shape[2:])])  # corners are aligned


def interpolate(coarse: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    return F.interpolate(coarse, size, mode="trilinear" if coarse.dim() == 5 else "bilinear", align_corners=True)


CASES = [
    OpCase(
        name="jacobian_determinant",
        op="jacobian_determinant",
        inputs=inputs.one_displacement,
        regkit=lambda u: ops.jacobian_determinant(u),
        peers={
            "torch.gradient + det": Peer(differences.jacobian_determinant_of_matrices),
            "torch.gradient": Peer(differences.jacobian_determinant, compile=True),
        },
        bytes_per_unit=lambda size: 4 * size.dims + 4,
        flops_per_unit=lambda size: 38 if size.dims == 3 else 15,
        targets={"torch.gradient": 8},
    ),
    OpCase(
        name="diffusion_energy forward+backward",
        op="diffusion_energy",
        inputs=inputs.one_displacement,
        gradient=("u",),
        regkit=lambda u: ops.diffusion_energy(u),
        peers={
            "torch slices": Peer(differences.diffusion, compile=True),
            "VoxelMorph's formula": Peer(voxelmorph.gradient_energy),
        },
        bytes_per_unit=lambda size: 8 * size.dims,
        flops_per_unit=lambda size: 40 if size.dims == 3 else 20,
        targets={"torch slices": 8},
    ),
    OpCase(
        name="upsample by 4 forward+backward",
        op="upsample",
        inputs=coarse_displacement,
        gradient=("coarse",),
        regkit=upsample,
        peers={"F.interpolate": Peer(interpolate)},
        bytes_per_unit=lambda size: 8 * size.dims,  # out, incoming gradient; the coarse field is small beside them
        flops_per_unit=lambda size: 48 if size.dims == 3 else 20,
    ),
]
