"""What the embedding compares: MIND, or a network's features; in the pipeline, its record and its report."""

import json
from dataclasses import replace

import pytest
import torch

from regkit import ops
from regkit.data import phantom
from regkit.errors import InputError, UsageError
from regkit.metrics import tre
from regkit.models import FeatureNetwork, VoxelMorph
from regkit.models.weights import Card, save_model
from regkit.registration import PRESETS, RefineStage, register
from regkit.registration.basis import Basis, search_of
from regkit.registration.config import EmbeddingStage
from regkit.registration.descriptors import descriptors, identity, sharpness

SMALL = {"channels": 2}
NONE = RefineStage().off()


@pytest.fixture
def weights(tmp_path) -> str:
    torch.manual_seed(0)
    return str(save_model(tmp_path / "features.safetensors", FeatureNetwork(2), Card("feature-network", SMALL, name="made", data="noise")))


def true_mind(self, image):
    """What the network is to learn."""
    return ops.mind_ssc(image, radius=1, dilation=1, pool=2)


def test_both_lie_alike(weights):
    image = torch.rand(1, 1, 20, 18, 23)
    mind, learned = (descriptors(EmbeddingStage(features=name), 3, "cpu")(image) for name in ("mind", weights))
    assert mind.shape == learned.shape == (1, 12, 10, 9, 11) and mind.dtype == learned.dtype == torch.float16
    assert mind.stride() == learned.stride()
    with torch.no_grad():
        network = descriptors(EmbeddingStage(features=weights), 3, "cpu")
        assert torch.equal(network(image), network(image))


def test_sharpness_follows_the_features(weights):
    stage = EmbeddingStage()
    assert [sharpness(replace(stage, features=name)) for name in ("mind", weights)] == [20, 60]
    assert sharpness(replace(stage, features=weights, sharpness=5.0)) == 5


def test_weights_that_changed_are_read_again(weights):
    stage, image = EmbeddingStage(features=weights), torch.rand(1, 1, 16, 16, 16)
    before, said = descriptors(stage, 3, "cpu")(image), identity(stage)
    save_model(weights, FeatureNetwork(2), Card("feature-network", SMALL))
    assert not torch.equal(descriptors(stage, 3, "cpu")(image), before) and identity(stage) != said


def test_regkit_brings_a_network_near_mind():
    made = phantom((64, 56, 60), spacing=5.0, landmarks=10)
    image = torch.from_numpy((made.fixed.data.clip(-1000, 400) + 1000) / 1400)[None, None].float()
    mind, learned = (descriptors(EmbeddingStage(features=name), 3, "cpu")(image).float() for name in ("mind", "learned"))
    assert (learned - mind).square().mean() < 0.5 * mind.flatten(2).var(2).mean()


def test_registering_with_learned_features(weights, tmp_path, monkeypatch):
    """A network that gives MIND itself registers as MIND does; record and report name it."""
    monkeypatch.setattr(FeatureNetwork, "forward", true_mind)
    made = phantom((64, 56, 60), spacing=5.0, landmarks=30, motion_mm=20)
    config = replace(PRESETS["ct-lung"], refine=NONE, embedding=replace(PRESETS["ct-lung"].embedding, sharpness=20.0))
    found = {}
    for features in ("mind", weights):
        options = replace(config, embedding=replace(config.embedding, features=features, keypoints=300, search_radius=4, patch_radius=1))
        masks = {"fixed_mask": made.fixed_mask, "moving_mask": made.moving_mask}
        found[features] = register(made.fixed, made.moving, config=options, **masks)
    points = [result.transform.apply(made.fixed_points.coordinates) for result in found.values()]
    assert abs(points[0] - points[1]).max() < 1e-3
    assert tre(points[1], made.moving_points).mean() < 0.7 * tre(made.fixed_points, made.moving_points).mean()
    assert found["mind"].record.features is None
    result = found[weights]
    result.save(tmp_path / "out")
    assert json.loads((tmp_path / "out/run.json").read_text())["features"]["sha256"] == identity(EmbeddingStage(features=weights))
    assert "made" in (tmp_path / "out/report.html").read_text() and "noise" in (tmp_path / "out/report.html").read_text()


def test_a_basis_is_of_its_features(weights, tmp_path):
    mind = EmbeddingStage(search_radius=1, dimensions=3, basis="basis")
    basis = Basis(torch.zeros(27), torch.eye(27)[:, :3], search_of(mind, 3))
    basis.of(mind, 3)
    with pytest.raises(UsageError, match="fitted on maps with features mind"):
        basis.of(replace(mind, features=weights), 3)


def test_what_cannot_be_used_is_told(weights, tmp_path):
    stage = EmbeddingStage(features=weights)
    with pytest.raises(UsageError, match="at every 2 voxels; set embedding.stride to that"):
        descriptors(replace(stage, stride=3), 3, "cpu")
    with pytest.raises(UsageError, match="are of 3-D scans, and these are 2-D"):
        descriptors(stage, 2, "cpu")
    with pytest.raises(UsageError, match="no model nowhere"):
        descriptors(replace(stage, features="nowhere"), 3, "cpu")
    broken = FeatureNetwork(2)
    torch.nn.init.constant_(broken.head.bias, float("nan"))
    nan = str(save_model(tmp_path / "nan.safetensors", broken, Card("feature-network", SMALL)))
    with pytest.raises(InputError, match="NaN or infinite"):
        descriptors(replace(stage, features=nan), 3, "cpu")(torch.rand(1, 1, 16, 16, 16))
    other = save_model(tmp_path / "other.safetensors", VoxelMorph(), Card("voxelmorph"))
    with pytest.raises(UsageError, match="is a voxelmorph, not a feature-network"):
        descriptors(replace(stage, features=str(other)), 3, "cpu")
