"""Target registration error: how far landmarks are from where they belong."""

from typing import Any

import numpy as np

from regkit.errors import InputError
from regkit.geometry import Grid


def tre(displaced: Any, target: Any) -> np.ndarray:
    """Target registration error of each landmark, ||displaced - target|| (Fitzpatrick and West 2001).

    For a transform T from fixed-space to moving-space points, that is tre(T.apply(fixed_points), moving_points).

    Args:
        displaced, target: the landmarks mapped, and where they should be: Points, or arrays (N, D), in world mm, in one order.

    Returns:
        (N,) mm.
    """
    a, b = (np.asarray(getattr(points, "coordinates", points), dtype=np.float64) for points in (displaced, target))
    if a.ndim != 2 or a.shape != b.shape:
        raise InputError(f"landmarks came as {a.shape} and {b.shape}; give two lists (N, D) of the same landmarks in the same order")
    return np.linalg.norm(a - b, axis=1)


def tre_snapped(displaced: Any, target: Any, grid: Grid) -> np.ndarray:
    """The same error (N,) in mm where the mapped landmarks are first put on the nearest voxel of the scan that `target` was placed in.

    Landmarks that were placed on whole voxels cannot show less than that error, so benchmarks such as DIR-Lab's round. grid: of the
    target's scan; halves round up.
    """
    points = np.asarray(getattr(displaced, "coordinates", displaced), dtype=np.float64)
    return tre(grid.to_world(np.floor(grid.to_index(points) + 0.5)), target)


def tre_summary(errors: np.ndarray) -> dict[str, float]:
    """What papers report of errors (N,): n, mean, std (population), median, p25, p75, p95 and max. NaN when there are none."""
    errors = np.asarray(errors, dtype=np.float64)
    if errors.size == 0:
        return {"n": 0} | dict.fromkeys(("mean", "std", "median", "p25", "p75", "p95", "max"), float("nan"))
    p25, median, p75, p95 = (float(value) for value in np.percentile(errors, [25, 50, 75, 95]))
    mean, std, largest = float(errors.mean()), float(errors.std()), float(errors.max())
    return {"n": int(errors.size), "mean": mean, "std": std, "median": median, "p25": p25, "p75": p75, "p95": p95, "max": largest}
