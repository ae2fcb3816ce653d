"""Displacement embedding (Hansen & Heinrich, MIDL 2020): large motion in one pass.

At keypoints of the fixed scan the features (MIND-SSC, or a network's) are compared with those of the moving scan at all displacements of a
search cube. The cost volumes (N, L) are mapped to d numbers each by a PCA, fitted on this pair or over many, E = (C - mu) V; diffusion over
the keypoint graph, (I + lambda L)^-1 E, lets neighbours agree; and the soft-min of the reconstruction E V^T + mu gives each keypoint its
displacement.
"""

from typing import TYPE_CHECKING

import torch

from regkit import ops
from regkit.errors import InputError
from regkit.features import foerstner_keypoints, laplacian_system, neighbour_graph
from regkit.registration.basis import load_basis
from regkit.registration.config import EmbeddingStage
from regkit.registration.densify import splat, thin_plate_spline
from regkit.registration.descriptors import descriptors, sharpness

if TYPE_CHECKING:
    from regkit.models.keypoint_model import KeypointModel

FEWEST = 10  # keypoints below which the stage has nothing to hold on to


class TooFewKeypoints(InputError):
    """The fixed scan is too small or too smooth for the stage; a registration can go on without it."""


def cost_volumes(fixed: torch.Tensor, moving: torch.Tensor, keypoints: torch.Tensor, stage: EmbeddingStage) -> torch.Tensor:
    """(N, L) dissimilarities of patches of features, L = (2 search_radius + 1)^D displacements, first axis slowest."""
    describe = descriptors(stage, fixed.dim() - 2, fixed.device)
    features = [describe(x) for x in (fixed, moving)]
    at = torch.div(keypoints, stage.stride, rounding_mode="floor")[None]
    return ops.correlate_keypoints(*features, at, search_radius=stage.search_radius, patch_radius=stage.patch_radius)[0].float()


def pca(cost: torch.Tensor, dimensions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (L,) and the first right singular vectors (L, d) of the centred rows, by the N x N Gram matrix, the smaller of the two."""
    mean = cost.mean(0)
    centred = cost - mean
    values, vectors = torch.linalg.eigh((centred @ centred.T).double())
    # Of N centred rows one is the others' negative sum. The product was rounded to float32, which leaves no eigenvalue exactly 0.
    d = min(dimensions, len(cost) - 1, int((values > values[-1] * torch.finfo(torch.float32).eps).sum()))
    values, vectors = values[len(values) - d :], vectors[:, len(values) - d :]
    return mean, centred.T @ (vectors / values.sqrt()).float()


def displacements(reach: int, dims: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """(L, D) displacements of the search cube in steps, first axis slowest."""
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32, device=device)
    return torch.stack(torch.meshgrid(*[steps] * dims, indexing="ij"), -1).reshape(-1, dims)


def decode(cost: torch.Tensor, keypoints: torch.Tensor, stage: EmbeddingStage, dims: int) -> torch.Tensor:
    """(N, D) displacements in voxels from the cost volumes: embedding, diffusion, soft-min."""
    if stage.dimensions == 0:
        smooth = _diffused(cost, keypoints, stage)
    else:
        fitted = pca(cost, stage.dimensions) if stage.basis is None else load_basis(stage.basis).of(stage, dims)
        mean, basis = (x.to(cost.device) for x in fitted)
        smooth = torch.addmm(mean, _diffused((cost - mean) @ basis, keypoints, stage), basis.T)
    return torch.softmax(-sharpness(stage) * smooth, 1) @ displacements(stage.search_radius, dims, cost.device) * stage.stride


def _diffused(values: torch.Tensor, keypoints: torch.Tensor, stage: EmbeddingStage) -> torch.Tensor:
    """(N, V): values that neighbours in the keypoints' graph have come to agree on."""
    if stage.diffusion == 0:
        return values
    system = laplacian_system(neighbour_graph(keypoints, stage.neighbours), stage.diffusion)
    return torch.cholesky_solve(values, torch.linalg.cholesky(system))


def embed(
    fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor | None, stage: EmbeddingStage, model: "KeypointModel | None" = None
) -> tuple[torch.Tensor, dict[str, float]]:
    """A dense displacement (1, D, *spatial) in voxels between two images (1, 1, *spatial) on one grid, and what there is to say of it.

    mask (1, 1, *spatial): where keypoints may lie, or None. model: a trained network in place of PCA, diffusion and soft-min.

    Raises TooFewKeypoints when the fixed scan has fewer than 10.
    """
    keypoints = foerstner_keypoints(fixed, mask, count=stage.keypoints, spread=stage.spread)
    if len(keypoints) < FEWEST:
        raise TooFewKeypoints(
            f"the fixed scan has only {len(keypoints)} distinctive points{'' if mask is None else ' inside its mask'} "
            f"(at least {FEWEST} are needed); "
            "check the intensity window, or set embedding.enabled = false"
        )
    dims, spatial = fixed.dim() - 2, tuple(fixed.shape[2:])
    if model is None:
        moved = decode(cost_volumes(fixed, moving, keypoints, stage), keypoints, stage, dims)
    else:
        moved = model.decode(cost_volumes(fixed, moving, keypoints, model.search(stage)), keypoints, spatial)
    x = keypoints.float()
    u = splat(x, moved, spatial) if stage.densify == "splat" else thin_plate_spline(x, moved, spatial, smoothing=stage.smoothing)
    return u, {
        "keypoints": len(keypoints),
        "median_voxels": float(moved.norm(dim=1).median()),
        "largest_voxels": float(moved.norm(dim=1).max()),
    }
