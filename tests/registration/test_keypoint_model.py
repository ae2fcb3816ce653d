"""A network on similarity maps of keypoints in the pipeline, by --model: its displacements become the motion."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from regkit.cli import main
from regkit.data import phantom
from regkit.errors import InputError, UsageError
from regkit.metrics import tre
from regkit.models import GraphRegNet
from regkit.models.input import NetworkInput
from regkit.models.keypoint_model import KeypointModel, unit_positions
from regkit.models.weights import Card, save_model
from regkit.registration import PRESETS, ModelStage, RefineStage, register
from regkit.registration.config import Intensity
from regkit.registration.prepare import Scan, normalise, working_grid

OPTIONS = {"search_radius": 4, "stride": 2, "patch_radius": 1, "neighbours": 5}
SHORT = RefineStage(shrink=(2.0,), iterations=(10,), window=(5,), smoothness=(6.0,), step=(0.4,))


@pytest.fixture(scope="module")
def made():
    return phantom((64, 56, 60), spacing=5.0, landmarks=30, motion_mm=20)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    return save_model(tmp_path / "graph.safetensors", GraphRegNet(**OPTIONS), Card("graphregnet", OPTIONS, name="made"))


def run(made, model, **more):
    config = replace(PRESETS["ct-lung"], refine=SHORT)
    masks = {"fixed_mask": made.fixed_mask, "moving_mask": made.moving_mask}
    return register(made.fixed, made.moving, config=config, model=model, **masks, **more)


def errors(result, made) -> float:
    return tre(result.transform.apply(made.fixed_points.coordinates), made.moving_points).mean()


def softmin(self, cost, keypoints, graph):
    """What a network could learn without neighbours: every second displacement's similarity, sharpened."""
    side = 2 * self.search_radius + 1
    assert keypoints.abs().max() <= 1 and graph.shape == (len(cost), self.neighbours)
    return -100 * cost.reshape(-1, side, side, side)[:, ::2, ::2, ::2]


def test_its_displacements_are_the_motion(made, weights, monkeypatch):
    monkeypatch.setattr(GraphRegNet, "forward", softmin)
    result = run(made, str(weights))
    before = tre(made.fixed_points, made.moving_points).mean()
    assert errors(result, made) < 0.6 * before
    assert result.record.model["name"] == "made" and "refine, level 1" not in result.record.curves
    assert any("embedding:" in note for note in result.record.notes)
    refined = run(made, str(weights), refine=True)
    assert errors(refined, made) < errors(result, made) and "refine, level 1" in refined.record.curves


def test_it_sees_what_it_was_trained_on(made, tmp_path):
    """Voxels and grey values are those of the model's card, whatever the preset has; refinement keeps the preset's grid."""
    torch.manual_seed(0)
    given = NetworkInput(spacing_mm=7.0, intensity=Intensity(window=(-900.0, 100.0)))
    path = save_model(tmp_path / "graph.safetensors", GraphRegNet(**OPTIONS), Card("graphregnet", OPTIONS, input=given))
    model = KeypointModel.load(ModelStage(str(path)))
    scans, config = (made.fixed, made.moving), PRESETS["ct-lung"]
    fixed, moving = (Scan(normalise(scan, config.intensity), None) for scan in scans)
    seen, grid = model.view(fixed, moving, scans, config)
    assert grid.spacing == pytest.approx([7, 7, 7], rel=0.01) and working_grid(fixed, config).spacing == pytest.approx([5, 5, 5])
    for scan, one in zip(scans, seen):
        assert np.allclose(one.image.data, np.clip((scan.data + 900) / 1000, 0, 1), atol=1e-5)
    refined = run(made, str(path), refine=True)
    assert any(note.startswith("network: grid") for note in refined.record.notes)
    assert refined.transform.parts[-1].grid.spacing == pytest.approx([5, 5, 5])


def test_on_the_command_line(made, weights, tmp_path):
    made.fixed.save(tmp_path / "f.nii.gz")
    made.moving.save(tmp_path / "m.nii.gz")
    arguments = [
        "register",
        "-f",
        str(tmp_path / "f.nii.gz"),
        "-m",
        str(tmp_path / "m.nii.gz"),
        "-o",
        str(tmp_path / "out"),
        "--preset",
        "ct-lung",
    ]
    assert main([*arguments, "--model", str(weights), "--quiet"]) == 0
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["model"]["card"]["network"] == "graphregnet"


def test_what_it_does_not_take(weights, tmp_path):
    with pytest.raises(UsageError, match="trained for one smoothness"):
        KeypointModel.load(ModelStage(str(weights), smoothness=0.5))
    with pytest.raises(UsageError, match="follows regkit's affine"):
        KeypointModel.load(ModelStage(str(weights), align="centres"))
    model = KeypointModel.load(ModelStage(str(weights)))
    with pytest.raises(UsageError, match="is for 3-D scans, and these are 2-D"):
        model.decode(torch.zeros(12, 81), torch.zeros(12, 2), (8, 8))
    network = GraphRegNet(**OPTIONS)
    with torch.no_grad():
        network.second.out.bias.fill_(float("nan"))
    broken = KeypointModel.load(ModelStage(str(save_model(tmp_path / "nan.safetensors", network, Card("graphregnet", OPTIONS)))))
    with pytest.raises(InputError, match="NaN or infinity"):
        broken.decode(torch.rand(12, 9**3), torch.rand(12, 3) * 8, (9, 9, 9))


def test_positions_run_from_corner_to_corner():
    found = unit_positions(torch.tensor([[0, 0, 0], [4, 2, 0], [2, 1, 0]]), (5, 3, 1))
    assert found.tolist() == [[-1, -1, -1], [1, 1, -1], [0, 0, -1]]
