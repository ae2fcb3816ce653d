"""Keypoints and their graph."""

from regkit.features.foerstner import foerstner_keypoints
from regkit.features.graph import laplacian_system, neighbour_graph

__all__ = ["foerstner_keypoints", "laplacian_system", "neighbour_graph"]
