"""Registration by active points: a known motion is found where the CNN tells the truth, iterations compose, and mistakes are told."""

from types import MethodType

import pytest
import torch

from regkit import ops
from regkit.models.networks import build
from regkit.models.similarity_registration import SimilarityRegistration

SHAPE = (40, 44, 36)


def motion(longest: float) -> torch.Tensor:
    """A smooth displacement (1, 3, *SHAPE), up to about `longest` voxels an axis."""
    i, j, k = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    return longest * torch.stack([torch.sin(2 * j) * torch.cos(k), torch.cos(2 * i), torch.sin(2 * k + i)])[None]


def body(seed: int = 0) -> torch.Tensor:
    """A textured ellipsoid in a black background."""
    noise = torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(seed))
    for _ in range(4):
        noise = ops.smooth(noise)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    return torch.where(sum(x.square() for x in axes) < 0.7, 0.2 + 1.2 * (noise - 0.3).clamp(0, 0.5), 0.0)


class Oracle(torch.nn.Module):
    """Tells what is left of a known motion, no more than `longest` an axis: in place of the CNN's answers at the points."""

    def __init__(self, network: SimilarityRegistration, true: torch.Tensor, moving: torch.Tensor, longest: float):
        super().__init__()
        self.true, self.moving, self.longest, self.left = true, moving, longest, []
        self.so_far = torch.zeros_like(true)
        network.displacements = MethodType(lambda _, fixed, warped, points: self.tell(points), network)
        dense = network.dense

        def remember(points, values, spatial):
            v = dense(points, values, spatial)
            self.so_far = ops.compose(self.so_far, v)
            return v

        network.dense = remember

    def tell(self, points: torch.Tensor) -> torch.Tensor:
        """v with so_far(x + v) + v = true, by a few fixed-point steps."""
        v = torch.zeros_like(self.true)
        for _ in range(20):
            v = self.true - ops.warp(self.so_far, v, padding="border")
        self.left.append(float(v.norm(dim=1).mean()))
        i, j, k = points.long().T
        return v[0][:, i, j, k].T.clamp(-self.longest, self.longest).contiguous()


@pytest.mark.parametrize(("longest", "iterations"), [(10.0, 1), (1.5, 2)])
def test_a_known_motion_is_found(longest, iterations):
    """What is too long for the CNN at once takes two iterations."""
    true, moving = motion(2.0), body()
    fixed = ops.warp(moving, true)
    network = SimilarityRegistration(0.02, share=0.02, iterations=iterations, spacing=10.0)
    Oracle(network, true, moving, longest)
    u = network(fixed, moving)
    inside = (fixed > 0.02)[:, 0]
    error = (u - true).norm(dim=1)[inside]
    assert error.mean() < 0.15 and error.quantile(0.99) < 0.6 < true.norm(dim=1)[inside].mean()
    if iterations == 2:
        once = SimilarityRegistration(0.02, share=0.02, iterations=1, spacing=10.0)
        Oracle(once, true, moving, longest)
        assert (once(fixed, moving) - true).norm(dim=1)[inside].mean() > 2 * error.mean()


def test_the_cnn_is_asked_in_batches_of_what_it_sees():
    fixed, moving = body(), body(1)
    network = SimilarityRegistration(0.02, kernel_sizes=(3, 5), batch=4)
    points = torch.tensor([[5, 6, 7], [20, 22, 18], [0, 0, 0], [39, 43, 35], [10, 30, 30], [12, 13, 14]])
    with torch.no_grad():
        found = network.displacements(fixed, moving, points)
        seen = ops.similarity_maps(fixed, moving, points[None].float(), kernel_sizes=(3, 5))[0]
        torch.testing.assert_close(found, network.cnn(seen[:, :1], seen[:, 1:2], seen[:, 2:]))
    assert found.shape == (6, 3)


def test_the_same_scans_give_the_same_field_and_a_batch_is_its_pairs():
    torch.manual_seed(0)
    network = build("similarity-cnn", {"width": 0.02, "share": 0.002, "kernel_sizes": [3]})
    network.cnn.connect[-1].weight.data *= 20  # far from 0
    fixed, moving = torch.cat([body(), body(2)]), torch.cat([body(1), body(3)])
    both = network(fixed, moving)
    assert both.shape == (2, 3, *SHAPE) and both.abs().max() > 0.1 and not both.requires_grad
    assert torch.equal(network(fixed[1:], moving[1:]), both[1:])


def test_grey_values_are_matched():
    torch.manual_seed(0)
    network = SimilarityRegistration(0.02, share=0.002, kernel_sizes=(3,))
    fixed, moving = body(), body(1)
    once, darker = (network(fixed, other) for other in (moving, 0.6 * moving))
    assert (once - darker).abs().max() < 0.02 * once.abs().max()


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"iterations": 0}, {"kernel_sizes": (4,)}, {"width": 0.0}])
def test_mistakes_are_told(wrong):
    with pytest.raises(ValueError, match="above 0"):
        SimilarityRegistration(**({"width": 0.02} | wrong))


def test_images_it_cannot_take():
    network = SimilarityRegistration(0.02)
    with pytest.raises(ValueError, match="of one shape"):
        network(body(), body()[..., :-1])
    with pytest.raises(ValueError, match="outline at 0 places"):
        network(torch.full((1, 1, *SHAPE), 0.5), body())
