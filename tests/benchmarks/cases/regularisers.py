"""diffusion_energy, bending_energy, jacobian_*, smooth, upsample: append an OpCase to CASES (see __init__.py)."""

import torch
import torch.nn.functional as F

from regkit import ops
from tests.benchmarks.case import OpCase, Outputs, Peer, Size
from tests.benchmarks.cases import inputs
from tests.benchmarks.peers import differences, monai, voxelmorph


def coarse_displacement(size: Size, generator: torch.Generator) -> dict:
    """A displacement at a quarter of the resolution, and a gradient of the fine one."""
    coarse = torch.randn(size.batch, size.dims, *(max(2, n // 4) for n in size.spatial), generator=generator)
    return {"coarse": coarse, "grad_out": inputs.noise(size.dims, size, generator), "size": size.spatial}


def upsample(coarse: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    return ops.upsample(coarse, size, [(n - 1) / (c - 1) for n, c in zip(size, coarse.shape[2:])])  # corners are aligned


def interpolate(coarse: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    return F.interpolate(coarse, size, mode="trilinear" if coarse.dim() == 5 else "bilinear", align_corners=True)


def displacement_and_gradient(size: Size, generator: torch.Generator) -> dict:
    return {"u": inputs.displacement(size, generator), "grad_out": inputs.noise(1, size, generator)}


def value_alone(outputs: Outputs) -> Outputs:
    """For a peer that discretises the same integral otherwise: on smooth fields its value is near, its gradient is another."""
    return outputs[:1]


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
        name="jacobian_determinant forward+backward",
        op="jacobian_determinant",
        inputs=displacement_and_gradient,
        gradient=("u",),
        regkit=lambda u: ops.jacobian_determinant(u),
        peers={
            "torch.gradient + det": Peer(differences.jacobian_determinant_of_matrices),
            "torch.gradient": Peer(differences.jacobian_determinant),
        },
        bytes_per_unit=lambda size: 12 * size.dims + 8,  # forward: u, map; backward: u, incoming gradient, gradient
        flops_per_unit=lambda size: 140 if size.dims == 3 else 50,
        targets={"torch.gradient": 8, "torch.gradient + det": 8},
    ),
    OpCase(
        name="jacobian_summary",
        op="jacobian_summary",
        inputs=inputs.one_displacement,
        regkit=lambda u: torch.stack(ops.jacobian_summary(u)),
        peers={
            "torch.gradient": Peer(lambda u: differences.jacobian_summary(differences.jacobian_determinant(u))),
            "regkit's map, then torch": Peer(lambda u: differences.jacobian_summary(ops.jacobian_determinant(u))),
        },
        bytes_per_unit=lambda size: 4 * size.dims,
        flops_per_unit=lambda size: 80 if size.dims == 3 else 55,  # a logarithm counted as 15
        targets={"torch.gradient": 8},
        memory_target=0.1,
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
        name="diffusion_energy forward+backward, beside MONAI's",
        op="diffusion_energy",
        inputs=inputs.one_displacement,
        gradient=("u",),
        regkit=lambda u: u.shape[1] * ops.diffusion_energy(u),
        peers={"MONAI": Peer(monai.call_on_displacement, prepare=monai.diffusion, needs="monai")},
        bytes_per_unit=lambda size: 8 * size.dims,
        flops_per_unit=lambda size: 40 if size.dims == 3 else 20,
        tolerance=0.3,
        comparable=value_alone,
        targets={"MONAI": 8},
    ),
    OpCase(
        name="bending_energy forward+backward",
        op="bending_energy",
        inputs=inputs.one_displacement,
        gradient=("u",),
        regkit=lambda u: ops.bending_energy(u),
        peers={"torch slices": Peer(differences.bending, compile=True)},
        bytes_per_unit=lambda size: 8 * size.dims,
        flops_per_unit=lambda size: 3 * 75 if size.dims == 3 else 2 * 40,
        targets={"torch slices": 8},
        memory_target=3.1,  # the gradient
    ),
    OpCase(
        name="bending_energy forward+backward, beside MONAI's",
        op="bending_energy",
        inputs=inputs.one_displacement,
        gradient=("u",),
        regkit=lambda u: ops.bending_energy(u),
        peers={"MONAI": Peer(monai.call_on_displacement, prepare=monai.bending, needs="monai")},
        bytes_per_unit=lambda size: 8 * size.dims,
        flops_per_unit=lambda size: 3 * 75 if size.dims == 3 else 2 * 40,
        tolerance=0.3,
        comparable=value_alone,
        targets={"MONAI": 8},
    ),
    OpCase(
        name="smooth",
        op="smooth",
        inputs=inputs.one_displacement,
        regkit=lambda u: ops.smooth(u),
        peers={"separable conv": Peer(lambda u: differences.smooth(u, 0.25))},
        bytes_per_unit=lambda size: 8 * size.dims,
        flops_per_unit=lambda size: size.dims * 4 * size.dims,
        targets={"separable conv": 8},
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
