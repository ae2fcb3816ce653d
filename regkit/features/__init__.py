"""Keypoints and their graph, and lungs in CT."""

from regkit.features.foerstner import foerstner_keypoints
from regkit.features.graph import laplacian_system, neighbour_graph
from regkit.features.lungs import lung_mask

__all__ = ["foerstner_keypoints", "laplacian_system", "lung_mask", "neighbour_graph"]
