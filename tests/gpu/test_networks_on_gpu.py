"""Networks whose CPU and GPU paths differ give the same on both: the decoders that convolve doubled features, and learned features."""

import pytest
import torch

from regkit.models import FeatureNetwork, LDGNet, VoxelMorph
from regkit.registration.config import EmbeddingStage
from regkit.registration.descriptors import descriptors

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("make", [VoxelMorph, LDGNet, FeatureNetwork], ids=lambda make: make.__name__)
def test_output_and_gradient_are_the_cpus(make):
    torch.manual_seed(0)
    network, images = make(), [torch.rand(1, 1, 32, 48, 32) for _ in range(1 if make is FeatureNetwork else 2)]
    if make is not FeatureNetwork:
        torch.nn.init.normal_(network.flow.weight, 0, 0.05)  # a new network moves nothing
    found = {}
    for device in ("cpu", "cuda"):
        network.to(device).zero_grad()
        out = network(*(image.to(device) for image in images))
        out.square().mean().backward()
        found[device] = [out.detach().cpu(), *(p.grad.detach().cpu().clone() for p in network.parameters())]
    for got, want in zip(found["cuda"], found["cpu"]):
        assert (got - want).norm() <= 1e-2 * want.norm() + 1e-6  # convolutions in TF32


def test_learned_features_are_the_cpus():
    image = torch.rand(1, 1, 40, 36, 44)
    for stage in (EmbeddingStage(), EmbeddingStage(features="learned")):
        cpu, gpu = (descriptors(stage, 3, device)(image.to(device)).float().cpu() for device in ("cpu", "cuda"))
        assert (gpu - cpu).abs().max() < 2e-2
