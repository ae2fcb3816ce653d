"""Files of tensors that may vanish: written whole or not at all, memory-mapped when read, made again when they are broken.

Mapped files are shared between processes by the system: loader workers, forked or spawned, and several trainings on one machine see the
same pages, which need neither shared memory nor copying, and which the system drops and reads again when memory gets short.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from regkit.errors import UsageError
from regkit.geometry import atomic_path

_HEADERS = (".hdr", ".mhd", ".nhdr")  # formats that keep their voxels in a file beside


def fingerprint(path: Path) -> list[Any]:
    """What changes when a file (or a folder of slices) does: its path, sizes and times of modification."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
    elif path.suffix.lower() in _HEADERS:
        files = sorted(path.parent.glob(f"{path.stem}.*"))
    else:
        files = [path]
    return [str(path.absolute()), [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]]


def key(*parts: Any) -> str:
    """A file name for what follows from `parts` (numbers, strings, lists)."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]


def load_or_make(
    path: Path, make: Callable[[], tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and notes in `path` (safetensors); where it is missing they are made and written first, where broken with a warning.

    The tensors are views of the mapped file, to be read only. Raises UsageError where the folder can't be written.
    """
    if path.exists():
        try:
            return _load(path)
        except Exception as error:  # whatever a damaged file makes its reader raise
            warnings.warn(f"{path} is broken ({error}) and is made again", stacklevel=2)
    tensors, notes = make()
    _save(path, tensors, notes)
    return _load(path)


def _load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        notes = json.loads(file.metadata()["notes"])
        return {name: file.get_tensor(name) for name in file.keys()}, notes


def _save(path: Path, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    try:
        with atomic_path(path) as draft:
            content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"notes": json.dumps(notes)})
            draft.write_bytes(content)  # save_file makes files that their owner alone may read
    except OSError as error:
        raise UsageError(f"the cache {path.parent} cannot be written: {error.strerror or error}; give another folder") from None
