"""Configurations survive TOML, and a mistake in the file is named in one line."""

from dataclasses import dataclass
from typing import Literal

import pytest

from regkit.errors import UsageError
from regkit.registration.toml import override, read_toml, to_toml


@dataclass(frozen=True)
class Stage:
    iterations: tuple[int, ...] = (100, 50)
    weight: float = 1.5
    metric: Literal["lncc", "mind"] = "lncc"


@dataclass(frozen=True)
class Config:
    preset: str = "generic"
    radius: int | None = None
    step: float | tuple[float, ...] = 1.0
    size: tuple[int, int] = (3, 4)
    fast: bool = True
    note: str = 'a "quoted" \\ line\n'
    first: Stage = Stage()
    second: Stage | None = Stage(weight=1e-7)

    def __post_init__(self):
        if self.radius is not None and self.radius < 1:
            raise ValueError(f"radius is {self.radius}; it must be at least 1")


def test_round_trip(tmp_path):
    config = Config(radius=4, step=(0.1, 0.25), size=(7, 8), fast=False, first=Stage((1,), 2.0, "mind"))
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert override(Config(), read_toml(file)) == config


def test_none_can_be_written_and_read(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(to_toml(Config()))
    assert override(Config(radius=4), read_toml(file)).radius is None


def test_partial_override_keeps_the_rest():
    changed = override(Config(), {"first": {"weight": 3}, "step": 2})
    assert changed.first == Stage(weight=3.0) and isinstance(changed.first.weight, float) and changed.step == 2.0 and changed.size == (3, 4)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"radus": 3}, "unknown key radus; did you mean radius?"),
        ({"iteration": [3]}, "unknown key iteration; did you mean first.iterations?"),
        ({"first": {"wieght": 3}}, "unknown key first.wieght; did you mean first.weight?"),
        ({"qqq": 3}, "known keys: preset, radius"),
        ({"radius": "four"}, "radius is 'four'; it must be a whole number"),
        ({"radius": True}, "radius is True; it must be a whole number"),
        ({"fast": 1}, "fast is 1; it must be true or false"),
        ({"size": [1, 2, 3]}, "size has 3 values; it needs 2"),
        ({"size": [1, 2.5]}, "size is 2.5; it must be a whole number"),
        ({"first": {"metric": "ssd"}}, "first.metric is 'ssd'; it must be one of 'lncc', 'mind'"),
        ({"first": 3}, "first is 3; it must be of type Stage"),
        ({"radius": 0}, "radius is 0; it must be at least 1"),
    ],
)
def test_mistakes_are_named(values, told):
    with pytest.raises(UsageError) as caught:
        override(Config(), values, "my.toml")
    assert str(caught.value).startswith("my.toml: ") and told in str(caught.value) and "\n" not in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(UsageError, match="missing.toml"):
        read_toml(tmp_path / "missing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("radius = = 3")
    with pytest.raises(UsageError, match="not TOML"):
        read_toml(broken)
