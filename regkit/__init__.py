"""regkit: deformable registration of medical images.

Names are loaded when they are first used: `import regkit.ops` needs torch and numpy only.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "register": "regkit.registration",
    "Result": "regkit.registration",
    "Image": "regkit.geometry",
    "Grid": "regkit.geometry",
    "read_image": "regkit.geometry",
    "load_transform": "regkit.geometry",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'regkit' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_HOME])
