"""Pictures and the self-contained page of a registration.

The names are loaded when first used: the command line takes regkit.report.tables from here and needs no matplotlib for it.
"""

from importlib import import_module

__all__ = ["render", "write_report"]


def __getattr__(name: str):
    if name in __all__:
        return getattr(import_module("regkit.report.html"), name)
    raise AttributeError(f"module 'regkit.report' has no attribute {name!r}")
