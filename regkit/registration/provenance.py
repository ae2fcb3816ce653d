"""What went in: files with their hashes, versions of what computed."""

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from regkit.geometry import Image


def sha256(path: Path) -> str:
    """Of a file; of a folder (a DICOM series), over its files in order of their names."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def describe_input(source: Any, image: Image) -> dict[str, Any]:
    """Where an input came from (path and hash, for files) and what it is."""
    where = {"path": os.fspath(source), "sha256": sha256(Path(source))} if isinstance(source, (str, os.PathLike)) else {}
    return where | {
        "shape": list(image.grid.shape),
        "spacing": list(image.grid.spacing),
        "orientation": image.grid.orientation,
        "dtype": str(image.data.dtype),
    }


def versions() -> dict[str, str]:
    """Python, regkit and what it computes with."""
    from regkit import __version__
    from regkit.ops.native import extension

    packages = {name: metadata.version(name) for name in ("torch", "numpy", "scipy", "nibabel", "SimpleITK")}
    return {"regkit": __version__, "python": platform.python_version(), **packages, "instruction set": extension().instruction_set}
