"""The keypoint graph joins neighbours, and its diffusion spreads values without losing any."""

import torch

from regkit.features import laplacian_system, neighbour_graph


def test_neighbours_on_a_line():
    points = torch.tensor([[0.0, 0], [1, 0], [2.5, 0], [10, 0]])
    wanted = torch.tensor([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]], dtype=torch.float32)
    torch.testing.assert_close(neighbour_graph(points, 1), wanted)  # 10 is nobody's nearest, but 2.5 is the nearest of 10


def test_fewer_points_than_neighbours():
    assert neighbour_graph(torch.zeros(1, 3), 7).tolist() == [[0.0]]
    assert neighbour_graph(torch.rand(3, 3), 7).sum() == 6


def test_diffusion_keeps_sums_and_constants(generator):
    points, values = torch.rand(60, 3, generator=generator), torch.rand(60, 5, generator=generator)
    system = laplacian_system(neighbour_graph(points, 7), 0.75)
    torch.testing.assert_close(system, system.T)
    spread = torch.linalg.solve(system, values)
    torch.testing.assert_close(spread.sum(0), values.sum(0), rtol=1e-4, atol=1e-4)
    assert (spread.var(0) < values.var(0)).all()
    torch.testing.assert_close(torch.linalg.solve(system, torch.ones(60, 1)), torch.ones(60, 1), rtol=1e-4, atol=1e-4)
