"""Presets are frozen, complete and survive TOML; contradictions are told in one line."""

from dataclasses import FrozenInstanceError, replace

import pytest

from regkit.errors import UsageError
from regkit.registration import PRESETS, AffineStage, Config, RefineStage, register
from regkit.registration.toml import override, read_toml, to_toml


def test_the_presets_of_the_manual():
    assert set(PRESETS) == {"ct-lung", "mr-brain", "ct-abdomen", "xray", "multimodal", "generic", "demons"}
    assert all(config.preset == name for name, config in PRESETS.items())
    assert PRESETS["generic"] == Config()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_toml_round_trip(name, tmp_path):
    (tmp_path / "config.toml").write_text(to_toml(PRESETS[name]))
    assert override(Config(), read_toml(tmp_path / "config.toml")) == PRESETS[name]


def test_a_preset_cannot_be_changed():
    config = PRESETS["ct-lung"]
    for owner, field in ((config, "margin"), (config.refine, "noise"), (config.intensity, "window")):
        with pytest.raises(FrozenInstanceError):
            setattr(owner, field, 1)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Config(refine=RefineStage(shrink=(2.0, 1.0))), "levels"),
        (lambda: Config(affine=AffineStage(iterations=(10,))), "affine: voxels has 2 levels and iterations 1"),
        (lambda: replace(Config(), affine=AffineStage(window=4)), "odd"),
        (lambda: Config(refine=replace(RefineStage(), shrink=(0.5,) * len(RefineStage().shrink))), "at least 1"),
        (lambda: register("a.nii", "b.nii", preset="brain"), "unknown preset 'brain'; there are "),
        (lambda: register("a.nii", "b.nii", device="tpu"), "device 'tpu'"),
        (lambda: register("a.nii", "b.nii", threads=0), "threads must be at least 1"),
    ],
)
def test_contradictions(make, told):
    with pytest.raises(UsageError) as caught:
        make()
    assert told in str(caught.value) and "\n" not in str(caught.value)
