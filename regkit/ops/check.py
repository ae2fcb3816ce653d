"""Checks shared by the ops. Messages name the argument, what came and what is needed."""

from collections.abc import Sequence

import torch


def displacement(u: torch.Tensor, name: str = "displacement") -> int:
    """Checks a displacement (B, D, *spatial) and returns D."""
    if u.dim() not in (4, 5) or u.shape[1] != u.dim() - 2:
        raise ValueError(f"{name} must be (B, D, *spatial) with D = number of spatial axes (2 or 3), but came as {tuple(u.shape)}")
    if not u.is_floating_point():
        raise TypeError(f"{name} must be floating point, but came as {u.dtype}")
    return u.dim() - 2


def image(x: torch.Tensor, name: str, dims: int | None = None) -> int:
    """Checks an image (B, C, *spatial) and returns its number of spatial axes."""
    if x.dim() not in (4, 5):
        raise ValueError(f"{name} must be (B, C, *spatial) with 2 or 3 spatial axes, but came as {tuple(x.shape)}")
    if dims is not None and x.dim() - 2 != dims:
        raise ValueError(f"{name} must have {dims} spatial axes, but came as {tuple(x.shape)}")
    return x.dim() - 2


def floating(x: torch.Tensor, name: str) -> None:
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, but came as {x.dtype}; convert it with .float()")


def same(what: str, **values) -> None:
    """Checks that all keyword values are equal, e.g. same("batch size", image=2, displacement=2)."""
    if len(set(values.values())) > 1:
        raise ValueError(f"{what} must agree, but " + ", ".join(f"{k} has {v}" for k, v in values.items()))


def choice(value: str, name: str, allowed: tuple[str, ...]) -> int:
    """Checks an option and returns its index."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, but came as {value!r}")
    return allowed.index(value)


def odd_window(window: int, name: str = "window") -> None:
    if window < 1 or window % 2 == 0:
        raise ValueError(f"{name} must be a positive odd number of voxels, but came as {window}")


def at_least(value: int, name: str, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, but came as {value}")


def per_axis(value: float | Sequence[float], name: str, count: int, what: str = "spatial axis") -> list[float]:
    """One number, or one for each axis -> a list of `count` floats."""
    if isinstance(value, (int, float)):
        return [float(value)] * count
    values = [float(v) for v in value]
    if len(values) != count:
        raise ValueError(f"{name} must be one number or one for each {what} ({count}), but came as {tuple(values)}")
    return values
