"""Training of the feature network: that it comes nearer to MIND, how it is scored, and what its weights say."""

import json
import tomllib

import pytest
import torch
import torch.nn.functional as F

from regkit import ops
from regkit.errors import UsageError
from regkit.geometry import Image
from regkit.models.weights import load_model
from regkit.registration.toml import override
from regkit.training.feature_network import FeatureTraining
from regkit.training.start import start

SMALL = """
steps = 40
network = {channels = 4}
[data.input]
shape = [16, 16, 16]
[loop]
batch = 1
learning_rate = 5e-3
validate_every = 40
save_every = 40
log_every = 10
"""
CONFIG = override(FeatureTraining(), tomllib.loads(SMALL), "test")


@pytest.fixture
def manifest(tmp_path):
    """Four scans of smooth lumps, two of them to validate on."""
    lines = ["name,image,split"]
    for n in range(4):
        noise = torch.rand(1, 1, 30, 28, 26, generator=torch.Generator().manual_seed(n))
        Image.from_array(F.avg_pool3d(noise, 3, 1, 1)[0, 0].numpy()).save(tmp_path / f"{n}.nii.gz")
        lines.append(f"{n},{n}.nii.gz,{'train' if n < 2 else 'validation'}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "pairs.csv"


def test_it_learns(manifest, tmp_path):
    task = start("feature-network", CONFIG, manifest, tmp_path / "run", quiet=True)
    network, card = load_model(tmp_path / "run/last.safetensors")
    logged = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    errors = [line["mse"] for line in logged if line["event"] == "train"]
    assert errors[-1] < 0.5 * errors[0] and card.metrics["mse"] < 0.5 * errors[0]
    scans = [task.validation[n].fixed for n in (0, 1)]
    truth = [ops.mind_ssc(scan, radius=1, dilation=1, pool=2) for scan in scans]
    with torch.no_grad():
        errors = [F.mse_loss(network(scan), mind) for scan, mind in zip(scans, truth)]
    assert float(sum(errors) / 2) == pytest.approx(card.metrics["mse"], rel=1e-3)
    assert card.training["target"] == {"radius": 1, "dilation": 1}


def test_options():
    with pytest.raises(UsageError, match="target.radius must be at least 0"):
        override(CONFIG, {"target": {"radius": -1}}, "test")
