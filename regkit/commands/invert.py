"""Points backwards through a transform whose inverse is not at hand."""

from typing import TYPE_CHECKING

import numpy as np

from regkit.errors import InputError

if TYPE_CHECKING:
    from regkit.geometry import Transform


def solve(transform: "Transform", points: np.ndarray, tolerance_mm: float = 1e-3, iterations: int = 100) -> np.ndarray:
    """The points x (N, D) with transform(x) = points, by Newton's method with Jacobians from central differences over 1 mm.

    Raises InputError when a point does not come within `tolerance_mm`, as where the transform folds.
    """
    points = np.asarray(points, dtype=float)
    steps = 0.5 * np.eye(points.shape[1])
    found = points.copy()
    for _ in range(iterations):
        missed = transform.apply(found) - points
        if np.linalg.norm(missed, axis=1).max(initial=0.0) <= tolerance_mm:
            return found
        jacobian = np.stack([transform.apply(found + step) - transform.apply(found - step) for step in steps], axis=-1)
        found -= (np.linalg.pinv(jacobian) @ missed[..., None])[..., 0]
    worst = float(np.linalg.norm(transform.apply(found) - points, axis=1).max())
    raise InputError(
        f"the transform cannot be inverted at every landmark (off by {worst:.2g} mm); give the OUT directory, which holds the inverse"
    )
