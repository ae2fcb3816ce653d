"""Weights files: what is saved comes back, with its card; anything else is refused in one line, and nothing in a file is run."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from regkit.data.cache import load_or_make
from regkit.errors import InputError, UsageError
from regkit.models import (
    ACRegNet,
    AttentionFusion,
    ConditionalLapIRN,
    FeatureNetwork,
    GraphRegNet,
    LabelAutoencoder,
    LapIRN,
    LDGNet,
    SegmentationUNet,
    SimilarityRegistration,
    VoxelMorph,
    weights,
)
from regkit.models.input import NetworkInput
from regkit.models.networks import NETWORKS, build, reads, registering
from regkit.models.weights import Card, load_model, save_model
from regkit.registration.config import Intensity
from tests.models.pairs import pair

OPTIONS = {
    "lapirn": {"levels": 2, "start_channels": 1, "dims": 2, "diffeomorphic": True},
    "conditional-lapirn": {"levels": 2, "start_channels": 1, "dims": 2, "lite": True},
    "voxelmorph": {"variant": "vxm-1", "dims": 2, "int_downsize": 4},
    "ldgnet": {"enhancement": True, "guidance": False, "dilations": [1, 2], "dims": 2},
    "graphregnet": {"search_radius": 4, "neighbours": 3},
    "attention-fusion": {"attention": {"channels": 2}, "registration": {"channels": [2, 2, 4], "scales": 2, "diffeomorphic": True}},
    "ac-regnet": {"channels": [2, 4, 4]},
    "similarity-cnn": {"width": 0.02, "kernel_sizes": [3], "patch": 19, "share": 0.002, "iterations": 1},
    "feature-network": {"channels": 2, "dims": 2},
    "segmentation-unet": {"classes": 3, "channels": 2},
    "label-autoencoder": {"classes": 2, "size": 16, "code": 4},
}


def test_every_network_is_named():
    assert set(OPTIONS) == set(NETWORKS)
    assert set(NETWORKS.values()) == {
        LapIRN, ConditionalLapIRN, VoxelMorph, LDGNet, FeatureNetwork, GraphRegNet, SimilarityRegistration, AttentionFusion, ACRegNet,
        SegmentationUNet, LabelAutoencoder,
    }  # fmt: skip


def test_what_a_network_takes():
    assert registering() == [
        "lapirn", "conditional-lapirn", "voxelmorph", "ldgnet", "graphregnet", "similarity-cnn", "attention-fusion", "ac-regnet"
    ]  # fmt: skip
    assert reads(SegmentationUNet) == ("image",) and reads(LabelAutoencoder()) == ("labels",)


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_saved_comes_back(name, tmp_path):
    network = build(name, OPTIONS[name])
    card = Card(
        network=name,
        options=OPTIONS[name],
        input=NetworkInput(Intensity(window=(-500.0, 800.0)), spacing_mm=None, shrink=2.0, shape=(16, 16), center="foreground"),
        description="für einen Test",
        data="made",
        licence="none",
        training={"steps": 3, "windows": [7, 5]},
        metrics={"dice": 0.5},
    )
    path = save_model(tmp_path / "model.safetensors", network, card)
    loaded, read = load_model(path)
    assert read == card
    assert type(loaded) is type(network) and not loaded.training
    assert all(torch.equal(x, loaded.state_dict()[key]) for key, x in network.state_dict().items())
    size = {"label-autoencoder": (16, 16), "similarity-cnn": (24, 22, 20)}.get(name, (16, 32))
    maps = torch.rand(4, 9**3), torch.rand(4, 3), torch.arange(4)[:, None]
    given = {"similarities": maps, "image": pair(size)[:1], "labels": [torch.cat(pair(size), 1)]}.get(reads(network)[0], pair(size))
    with torch.no_grad():
        assert torch.equal(loaded(*given), network.eval()(*given))
    assert list(tmp_path.iterdir()) == [path]  # no draft stays


def test_channels_last_weights_are_saved_too(tmp_path):
    network = LapIRN(levels=1, start_channels=1).to(memory_format=torch.channels_last_3d)
    loaded, _ = load_model(save_model(tmp_path / "a.safetensors", network, Card("lapirn", {"levels": 1, "start_channels": 1})))
    assert all(torch.equal(x, loaded.state_dict()[key]) for key, x in network.state_dict().items())


def test_others_may_read_it_as_any_file(tmp_path):
    """Weights and prepared scans lie on disks that a group shares."""
    (tmp_path / "plain").touch()
    save_model(tmp_path / "a.safetensors", LapIRN(levels=1, start_channels=1), Card("lapirn"))
    load_or_make(tmp_path / "b.safetensors", lambda: ({"x": torch.zeros(1)}, {}))
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "plain").stat().st_mode}


def test_a_write_that_fails_leaves_the_file_there(tmp_path, monkeypatch):
    network, path = LapIRN(levels=1, start_channels=1), tmp_path / "a.safetensors"
    save_model(path, network, Card("lapirn", {"levels": 1, "start_channels": 1}))
    before = path.read_bytes()

    write = Path.write_bytes

    def full(file, content):
        write(file, content[: len(content) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save_model(path, network, Card("lapirn"))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def written(path: Path, card: object, tensors: dict | None = None, version: str = weights.FORMAT) -> Path:
    save_file(tensors or {"x": torch.zeros(1)}, path, {"regkit": version, "card": card if isinstance(card, str) else json.dumps(card)})
    return path


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("{not json", "card"),
        ([1], "card"),
        ({}, "network None"),
        ({"network": "unet"}, "network 'unet'; this regkit has lapirn"),
        ({"network": "lapirn", "colour": 1}, "colour"),
        ({"network": "lapirn", "options": {"levles": 3}}, "levles"),
        ({"network": "lapirn", "options": {"levels": 0}}, "levels"),
        ({"network": "lapirn", "options": {"levels": 1}}, "not those of lapirn"),
        ({"network": "lapirn", "options": {"levels": 1}, "input": {"spacing": 2}}, "spacing"),
    ],
)
def test_a_card_that_cannot_be_used_is_named(card, message, tmp_path):
    path = written(tmp_path / "strange.safetensors", card)
    with pytest.raises(InputError, match=message) as raised:
        load_model(path)
    assert "strange.safetensors" in str(raised.value) and "\n" not in str(raised.value)


def test_a_newer_format_is_named(tmp_path):
    with pytest.raises(InputError, match="format 2.*take a newer regkit"):
        load_model(written(tmp_path / "a.safetensors", {"network": "lapirn"}, version="2"))


def test_a_file_without_a_card_is_named(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="holds no model card"):
        load_model(tmp_path / "a.safetensors")


def test_a_file_cut_short_is_named(tmp_path):
    path = save_model(tmp_path / "a.safetensors", LapIRN(1, 1), Card("lapirn", {"levels": 1, "start_channels": 1}))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is not a weights file"):
        load_model(path)


class Trap:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("dump", [lambda x, f: torch.save({"state": x}, f), lambda x, f: f.write_bytes(pickle.dumps(x))])
def test_a_pickle_is_refused_and_not_run(dump, tmp_path):
    sprung, path = tmp_path / "sprung", tmp_path / "model.pth"
    dump(Trap(sprung), path)
    with pytest.raises(InputError, match="is not a weights file"):
        load_model(path)
    assert not sprung.exists()


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="no model nosuch: give a .safetensors file"):
        load_model("nosuch")


def test_a_network_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="did you mean voxelmorph"):
        build("voxelmorf", {})
