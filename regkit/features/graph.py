"""The graph of keypoints: k nearest neighbours, and the diffusion system of its Laplacian."""

import numpy as np
import torch


def neighbour_graph(points: torch.Tensor, neighbours: int) -> torch.Tensor:
    """Symmetric adjacency (N, N) of 0 and 1: A_ij = 1 where i is among the k nearest of j or j among those of i.
    points (N, D) in one unit along all axes."""
    from scipy.spatial import cKDTree

    x = points.cpu().numpy().astype(np.float64)
    k = min(neighbours, len(x) - 1)
    adjacency = torch.zeros(len(x), len(x), device=points.device)
    if k > 0:
        _, index = cKDTree(x).query(x, k=k + 1)  # the first is the point itself, or its twin
        rows = torch.arange(len(x), device=points.device)[:, None].expand(-1, k + 1).reshape(-1)
        adjacency[rows, torch.from_numpy(index.reshape(-1).astype(np.int64)).to(points.device)] = 1
        adjacency = torch.maximum(adjacency, adjacency.T)
        adjacency.fill_diagonal_(0)
    return adjacency


def laplacian_system(adjacency: torch.Tensor, weight: float) -> torch.Tensor:
    """I + weight (D - A), symmetric positive definite: its inverse spreads values over the graph and keeps their sum."""
    return torch.eye(len(adjacency), device=adjacency.device) + weight * (torch.diag(adjacency.sum(1)) - adjacency)
