"""GraphRegNet: from the similarity maps of keypoints to their displacements, by convolutions over maps and over the keypoints' graph."""

import torch
import torch.nn.functional as F
from torch import nn

from regkit.models.folded import FoldedConv3d, along_axes, gaussian, linear

CHANNELS = 4
SIGMA = 1.0  # of the smoothed copies, in steps of the search


class GraphRegNet(nn.Module):
    """The network of Hansen & Heinrich 2021 (33,506 parameters): two hourglasses over the search cube, each with graph convolutions over
    the keypoints at its narrowest.

    For every keypoint it takes the dissimilarities of a search cube of 2 search_radius + 1 displacements along each axis, `stride` voxels
    apart (correlate_keypoints), and gives a heat map over every second of them; the soft-max's mean is the keypoint's displacement. It is
    the learned successor of the PCA embedding with diffusion: a non-linear embedding (the encoder), a learned regularisation (graph
    convolutions).

    search_radius: even, so that the heat map has displacement 0. neighbours: of a keypoint in the graph, itself among them.
    The paper: search_radius 14, stride 2, 15 neighbours, dissimilarities times 1.5, 2048 keypoints; trained by Adam with rate 0.1.

    Source: Hansen & Heinrich, GraphRegNet: Deep graph regularisation networks on sparse keypoints for dense registration of 3D lung CTs,
    IEEE TMI 2021; https://github.com/multimodallearning/graphregnet.
    """

    dims = 3
    reads = ("similarities",)

    def __init__(self, search_radius: int = 14, stride: int = 2, patch_radius: int = 2, neighbours: int = 15, scale: float = 1.5):
        super().__init__()
        if search_radius < 2 or search_radius % 2 or stride < 1 or patch_radius < 0 or neighbours < 1 or not scale > 0:
            raise ValueError(
                "search_radius must be even and at least 2, stride and neighbours at least 1, patch_radius at least 0 and scale above 0, "
                f"but came as {search_radius}, {stride}, {neighbours}, {patch_radius} and {scale}"
            )
        self.search_radius, self.stride, self.patch_radius = search_radius, stride, patch_radius
        self.neighbours, self.scale = neighbours, scale
        self.first, self.second = Hourglass(2), Hourglass(4)
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d):
                nn.init.xavier_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, cost: torch.Tensor, keypoints: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        """Heat maps (N, H, H, H), H = search_radius + 1, larger where a displacement is likelier.

        cost: (N, L) dissimilarities, L = (2 search_radius + 1)^3, first axis slowest. keypoints: (N, 3) positions, scaled to about -1..1.
        graph: (N, k) int64, the indices of each keypoint's neighbours.
        Raises ValueError for other shapes.
        """
        side = 2 * self.search_radius + 1
        if cost.shape[1:] != (side**3,) or keypoints.shape != (len(cost), 3) or graph.shape[:1] != (len(cost),):
            raise ValueError(
                f"cost must be (N, {side**3}), keypoints (N, 3) and graph (N, k), "
                f"but came as {tuple(cost.shape)}, {tuple(keypoints.shape)} and {tuple(graph.shape)}"
            )
        cost = self.scale * cost.reshape(-1, 1, side, side, side)
        seen = [cost, smoothed(cost)]
        guess = along_axes(self.first(torch.cat(seen, 1), keypoints, graph), lambda n: linear(n, side))
        return self.second(torch.cat([*seen, guess, smoothed(guess)], 1), keypoints, graph)[:, 0]

    def displacements(self, heat: torch.Tensor) -> torch.Tensor:
        """(N, 3) in voxels: the mean displacement under the soft-max of each heat map (N, H, H, H)."""
        steps = self.stride * torch.arange(-self.search_radius, self.search_radius + 1, 2, dtype=heat.dtype, device=heat.device)
        weight = heat.flatten(1).softmax(1).reshape(heat.shape)
        return torch.stack([weight.sum([d for d in (1, 2, 3) if d != axis]) @ steps for axis in (1, 2, 3)], 1)


class Hourglass(nn.Module):
    """(N, channels, S, S, S) to (N, 1, H, H, H), H = ceil(S / 2): three strided convolutions, three graph convolutions, back up twice."""

    def __init__(self, channels: int):
        super().__init__()
        c = CHANNELS
        self.down = nn.ModuleList(_layer(i, o, stride=2) for i, o in ((channels, c), (c, 2 * c), (2 * c, 4 * c)))
        self.graph = nn.ModuleList(GraphConvolution(n * 4 * c + 3, 4 * c) for n in (1, 2, 3))
        self.up = nn.ModuleList(_layer(i, o) for i, o in ((4 * c, 2 * c), (2 * c, c)))
        self.join = nn.ModuleList(_layer(i, o) for i, o in ((4 * c, 2 * c), (2 * c, c)))
        self.out = FoldedConv3d(c, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, keypoints: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        levels = []
        for layer in self.down:
            x = layer(x)
            levels.append(x)
        place = keypoints.to(x.dtype)[:, :, None, None, None].expand(-1, -1, *x.shape[2:])
        seen = [x, place]
        for layer in self.graph:
            seen.append(layer(torch.cat(seen, 1), graph))
        x = seen[-1]
        for level, up, join in zip(levels[-2::-1], self.up, self.join):
            x = up(along_axes(x, lambda n, m=level.shape[-1]: linear(n, m)))
            x = join(torch.cat([x, level], 1))
        return self.out(x)


class GraphConvolution(nn.Module):
    """EdgeConv (Wang et al. 2019) at every place of the maps: the mean over a keypoint's neighbours of a layer on (neighbour - own, own).

    As in the authors' code the normalisation is over all keypoints, neighbours and places together.
    """

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.weight = nn.Conv3d(2 * channels, out, 1, bias=False)

    def forward(self, x: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        """x (N, C, s, s, s), graph (N, k) -> (N, out, s, s, s)."""
        shape = x.shape[2:]
        near, own = self.weight.weight[:, :, 0, 0, 0].tensor_split(2, 1)
        # The layer is linear: near (y - x) + own x = near y + (own - near) x, with products once a keypoint and not once an edge.
        flat = x.flatten(2)
        edges = (near @ flat)[graph] + ((own - near) @ flat)[:, None]  # (N, k, out, places)
        edges = edges - edges.mean((0, 1, 3), keepdim=True)
        edges = edges * torch.rsqrt(edges.square().mean((0, 1, 3), keepdim=True) + 1e-5)
        return F.leaky_relu(edges, 0.01).mean(1).unflatten(2, shape)


def smoothed(x: torch.Tensor) -> torch.Tensor:
    """Gaussian of SIGMA steps over each map of (.., S, Y, X), five taps along each axis, border repeated."""
    return along_axes(x, lambda n: gaussian(n, SIGMA))


def _layer(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(FoldedConv3d(channels, out, 3, stride=stride, padding=1, bias=False), nn.InstanceNorm3d(out), nn.LeakyReLU(0.01))


def nearest(keypoints: torch.Tensor, count: int) -> torch.Tensor:
    """(N, min(count, N)) int64: each keypoint's nearest, itself first; positions (N, D) in one unit along all axes."""
    from scipy.spatial import cKDTree

    x = keypoints.detach().cpu().double().numpy()
    _, index = cKDTree(x).query(x, k=list(range(1, min(count, len(x)) + 1)))
    return torch.from_numpy(index).to(torch.int64).to(keypoints.device)
