"""GraphRegNet: its size, its graph convolution against the formula, what depends on what, gradients, messages."""

import pytest
import torch
import torch.nn.functional as F

from regkit.models.graphregnet import GraphConvolution, GraphRegNet, nearest, smoothed


def inputs(count: int = 12, radius: int = 4, neighbours: int = 4):
    random = torch.Generator().manual_seed(0)
    keypoints = torch.rand(count, 3, generator=random) * 2 - 1
    return torch.rand(count, (2 * radius + 1) ** 3, generator=random), keypoints, nearest(keypoints, neighbours)


def test_parameters():
    assert sum(p.numel() for p in GraphRegNet().parameters()) == 33_506


def test_graph_convolution_is_a_layer_on_edges():
    """As it is written down: of every edge (neighbour - own, own) a 1^3 convolution, normalisation, leaky ReLU; the mean over edges."""
    torch.manual_seed(1)
    layer, (_, _, graph) = GraphConvolution(5, 7), inputs()
    x = torch.randn(12, 5, 2, 2, 2)
    near, own = x[graph], x[:, None].expand(-1, graph.shape[1], -1, -1, -1, -1)
    edges = torch.cat([near - own, own], 2).flatten(3).permute(2, 0, 1, 3)[None]  # (1, 2 C, N, k, places)
    want = F.leaky_relu(F.instance_norm(F.conv3d(edges, layer.weight.weight)), 0.01)[0].mean(2)  # (out, N, places)
    assert torch.allclose(layer(x, graph), want.transpose(0, 1).unflatten(2, (2, 2, 2)), atol=1e-5)


def test_heat_maps_and_displacements():
    torch.manual_seed(0)
    network = GraphRegNet(search_radius=4, stride=2, neighbours=4)
    cost, keypoints, graph = inputs()
    heat = network(cost, keypoints, graph)
    assert heat.shape == (12, 5, 5, 5)
    network.displacements(heat).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    peak = torch.full((2, 5, 5, 5), -1e4)
    peak[0, 4, 0, 2], peak[1, 2, 2, 3] = 1e4, 1e4
    assert network.displacements(peak).tolist() == [[8, -8, 0], [0, 0, 4]]


def test_a_neighbours_map_counts():
    torch.manual_seed(0)
    network = GraphRegNet(search_radius=4, neighbours=4).eval()
    cost, keypoints, graph = inputs()
    cost.requires_grad_()
    by = torch.autograd.grad(network(cost, keypoints, graph)[0].square().sum(), cost)[0].abs().amax(1)
    assert (by > 0).all()  # its own and its neighbours' directly, all others' by the normalisation
    assert by[0] > by.median()


def test_smoothing_keeps_constants_and_sums_inside():
    x = torch.zeros(1, 1, 9, 9, 9)
    x[..., 4, 4, 4] = 1
    assert smoothed(torch.ones(1, 1, 4, 5, 6)).sub(1).abs().max() < 1e-6
    assert smoothed(x).sum().item() == pytest.approx(1, abs=1e-5)
    assert smoothed(x)[0, 0, 4, 4, 4].item() == pytest.approx((1 / sum(2.718281828 ** (-(d**2) / 2) for d in range(-2, 3))) ** 3, rel=1e-4)


def test_nearest_are_themselves_first():
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [5, 0, 0]])
    assert nearest(points, 2).tolist() == [[0, 1], [1, 0], [2, 1]]
    assert nearest(points, 9).shape == (3, 3)


def test_messages():
    for wrong in ({"search_radius": 3}, {"stride": 0}, {"neighbours": 0}, {"patch_radius": -1}, {"scale": 0}):
        with pytest.raises(ValueError, match="must be"):
            GraphRegNet(**wrong)
    cost, keypoints, graph = inputs()
    with pytest.raises(ValueError, match=r"cost must be \(N, 729\)"):
        GraphRegNet(4)(cost[:, :10], keypoints, graph)
