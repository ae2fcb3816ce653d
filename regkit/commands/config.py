"""From --preset and --config to a Config."""

from pathlib import Path
from typing import TYPE_CHECKING

from regkit.errors import UsageError

if TYPE_CHECKING:
    from regkit.registration.config import Config

DEFAULT_PRESET = "generic"


def build(preset: str | None, file: Path | None) -> "Config":
    """The preset (the option's, else the file's, else generic) with the file's fields in place of its own. Raises UsageError."""
    from difflib import get_close_matches

    from regkit.registration.config import PRESETS
    from regkit.registration.toml import override, read_toml

    values = {} if file is None else read_toml(file)
    named = values.pop("preset", None)
    if preset is not None and named is not None and preset != named:
        raise UsageError(f"--preset {preset} and {file} (preset = {named!r}) disagree; leave one out")
    name = preset or named or DEFAULT_PRESET
    if name not in PRESETS:
        near = get_close_matches(str(name), PRESETS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown preset {name}; {hint}there are {', '.join(PRESETS)}")
    return override(PRESETS[name], values, str(file))
