"""The directory of a training, and the rules for beginning and going on in it.

config.toml           what was asked for, as --config reads it
log.jsonl             losses and validations, a line an event
tensorboard/          the same, with pictures
checkpoints/          all state, to go on from
model.safetensors     the best weights of the last stage so far, with their card
last.safetensors      the weights at the end
"""

import hashlib
import json
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from regkit.errors import UsageError
from regkit.geometry import atomic_path
from regkit.registration.toml import override, read_toml, to_toml

CONFIG, LOG, BEST, LAST, DATA = "config.toml", "log.jsonl", "model.safetensors", "last.safetensors", "data.json"


def check_run(run: Path, config: Any, data: Path, resume: bool) -> bool:
    """Whether there is a training in a run's directory to go on with; writes nothing.

    data: the manifest, whose content must be the same on resuming.
    Raises UsageError: a file in its place, a training in it without --resume, another configuration or manifest with it; and where
    TensorBoard, which comes with regkit[train], is missing.
    """
    from regkit.registration.save import check_output

    check_output(run)
    if find_spec("tensorboard") is None:
        raise UsageError("training writes TensorBoard logs and tensorboard is not installed; pip install 'regkit[train]'")
    there = (run / CONFIG).exists()
    if there and not resume:
        raise UsageError(f"{run} already holds a training; go on with --resume, or name another directory")
    if there:
        _same(run, config, _digest(data))
    return there


def begin_run(run: Path, config: Any, data: Path) -> None:
    """Makes a run's directory, once all that was given is known to be usable."""
    run.mkdir(parents=True, exist_ok=True)
    with atomic_path(run / DATA) as draft:
        draft.write_text(json.dumps(_digest(data), indent=2) + "\n", encoding="utf-8")
    with atomic_path(run / CONFIG) as draft:
        draft.write_text(to_toml(config), encoding="utf-8")


def _digest(data: Path) -> dict[str, str]:
    return {"manifest": str(data), "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}


def _same(run: Path, config: Any, digest: dict[str, str]) -> None:
    known = override(type(config)(), read_toml(run / CONFIG), str(run / CONFIG))  # options that came later have their defaults there
    before, now = (_flat(tomllib.loads(to_toml(options))) for options in (known, config))
    changed = [f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in sorted(before | now) if before.get(key) != now.get(key)]
    if changed:
        raise UsageError(f"{run} was begun with another configuration: {'; '.join(changed)}; resume without --config, or start anew")
    data = json.loads((run / DATA).read_text(encoding="utf-8"))
    if digest.get("sha256") != data.get("sha256"):
        raise UsageError(f"{run} was begun with another manifest ({data.get('manifest')}); give that one, or start anew")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
