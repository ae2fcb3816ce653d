"""The authors' released checkpoints give their fields: published.json has values that the authors' own code computed with them.

The checkpoints are MIT-licensed and not part of regkit: set REGKIT_LAPIRN_ORIGINAL to a folder that has them (from the folder Model of
github.com/cwmok/LapIRN and github.com/cwmok/Conditional_LapIRN).
"""

import json
import os
from pathlib import Path

import pytest
import torch

from regkit.models import ConditionalLapIRN, LapIRN
from tests.models import published

FOLDER = os.environ.get("REGKIT_LAPIRN_ORIGINAL")
RECORDED = json.loads(Path(__file__).with_name("published.json").read_text())


def waves(phase: float) -> torch.Tensor:
    """(1, 1, 32, 24, 40), 0..1; no random numbers, which another version might draw otherwise."""
    i, j, k = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in (32, 24, 40)], indexing="ij")
    wave = torch.sin(i / 3 + phase) * torch.sin(j / 4 + 1) * torch.sin(k / 5 + 2 - phase) + 0.3 * torch.sin((i + j + k) / 2 + phase)
    return ((wave - wave.min()) / (wave.max() - wave.min())).float()[None, None]


@pytest.mark.skipif(FOLDER is None, reason="no checkpoints: set REGKIT_LAPIRN_ORIGINAL to a folder with the authors' .pth files")
@pytest.mark.parametrize("name", RECORDED)
def test_the_authors_checkpoints_give_their_fields(name):
    recorded = RECORDED[name]
    weights = torch.load(Path(FOLDER, recorded["file"]), map_location="cpu", weights_only=True)
    fixed, moving = waves(0.0), waves(0.5)
    with torch.no_grad():
        if recorded["code"] is None:
            levels = LapIRN.from_original(weights, diffeomorphic=recorded["diffeomorphic"]).pyramid(fixed, moving)
        else:
            levels = ConditionalLapIRN.from_original(weights).pyramid(fixed, moving, smoothness=recorded["code"])
    assert len(levels) == len(recorded["levels"])
    for level, want in zip(levels, recorded["levels"]):
        # the authors' field: half images, x y z
        field = level.displacement.flip(1) / published.in_voxels(torch.ones_like(level.displacement)).flip(1)
        assert field.abs().mean().item() == pytest.approx(want["mean_magnitude"], rel=1e-4)
        for place, value in want["values"]:
            assert field[0, :, *place].tolist() == pytest.approx(value, abs=2e-6)
