"""Trees of vessels and airways that fill a lung.

A volume-filling tree (Tawhai, Pullan, Hunter: Generation of an anatomically based three-dimensional model of the conducting airways,
Ann. Biomed. Eng. 28, 2000): a cloud of points stands for the tissue to supply. Each branch splits its points in two by a plane through
their centroid, and sends a child part of the way towards the centroid of each half, until a child has one point left. One generation of all
branches is made at a time, so that a tree of thousands of branches costs some twenty rounds of array arithmetic.

Radii follow Murray's law (the cubes of the children's radii add up to the parent's), which here is a radius in proportion to the cube root
of the number of points supplied.
"""

from dataclasses import dataclass

import numpy as np

_GENERATIONS = 30
_CURVE_PIECES = 3


@dataclass(frozen=True)
class Segments:
    """Straight pieces of tube with a radius that changes linearly: start and end (S, 3) in mm, start_radius and end_radius (S,) in mm."""

    start: np.ndarray
    end: np.ndarray
    start_radius: np.ndarray
    end_radius: np.ndarray

    @staticmethod
    def polyline(points: np.ndarray, radius: float | np.ndarray) -> "Segments":
        """The pieces of a polyline (N, 3) with one radius, or one per point."""
        points = np.asarray(points, dtype=np.float32)
        radii = np.broadcast_to(np.asarray(radius, dtype=np.float32), (len(points),))
        return Segments(points[:-1], points[1:], radii[:-1], radii[1:])

    @staticmethod
    def join(parts: "list[Segments]") -> "Segments":
        """All pieces of several sets."""
        names = ("start", "end", "start_radius", "end_radius")
        return Segments(*(np.concatenate([getattr(part, name) for part in parts]).astype(np.float32) for name in names))

    def widened(self, factor: float, margin: float) -> "Segments":
        """The same centre lines with radii of `factor` times what they were plus `margin` mm."""
        return Segments(self.start, self.end, factor * self.start_radius + margin, factor * self.end_radius + margin)

    def subdivided(self, length: float) -> "Segments":
        """The same tubes in pieces no longer than `length` mm, or than their own diameter where that is larger."""
        longest = np.maximum(length, self.start_radius + self.end_radius)
        pieces = np.maximum(1, np.ceil(np.linalg.norm(self.end - self.start, axis=1) / longest)).astype(int)
        owner = np.repeat(np.arange(len(pieces)), pieces)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        low, high = number / pieces[owner], (number + 1) / pieces[owner]
        span, growth = (self.end - self.start)[owner], (self.end_radius - self.start_radius)[owner]
        points = [self.start[owner] + span * part[:, None] for part in (low, high)]
        radii = [self.start_radius[owner] + growth * part for part in (low, high)]
        return Segments(*(array.astype(np.float32) for array in (*points, *radii)))


@dataclass(frozen=True)
class Tree:
    """A grown tree: its tubes, and its branchings (B, 3) in mm with the radius (B,) of the branch that ends there."""

    segments: Segments
    branchings: np.ndarray
    branching_radii: np.ndarray


def grow_tree(
    cloud: np.ndarray, root: np.ndarray, direction: np.ndarray, radius: float, rng: np.random.Generator, max_angle: float = 60.0
) -> Tree:
    """Grows a tree from `root` (3,) mm, first along `direction` (3,), that supplies the points `cloud` (N, 3) mm.

    `radius` is the radius of the trunk in mm; a branch bends away from its parent by at most `max_angle` degrees.
    """
    position, heading = np.asarray(root, dtype=np.float64)[None], _unit(np.asarray(direction, dtype=np.float64)[None])
    points, owner = np.asarray(cloud, dtype=np.float64), np.zeros(len(cloud), dtype=int)
    total, pieces, branchings, branching_radii = len(points), [], [], []
    for _ in range(_GENERATIONS):
        if len(points) == 0:
            break
        count = np.bincount(owner, minlength=len(position))
        centroid = _group_mean(points, owner, count)
        normal = _splitting_normals(points - centroid[owner], owner, _unit(centroid - position), rng)
        child = 2 * owner + (np.einsum("nd,nd->n", points - centroid[owner], normal[owner]) > 0)
        alive, child, child_count = np.unique(child, return_inverse=True, return_counts=True)
        parent = alive // 2
        forks = np.flatnonzero(np.bincount(parent, minlength=len(position)) == 2)
        branchings.append(position[forks])
        branching_radii.append(radius * np.cbrt(count[forks] / total))

        aim = _group_mean(points, child, child_count) - position[parent]
        fraction = np.where(child_count <= 2, 0.9, rng.uniform(0.35, 0.5, len(aim)))
        length = np.linalg.norm(aim, axis=1) * fraction
        bent = _limit_angle(_unit(aim), heading[parent], max_angle)
        end = position[parent] + bent * length[:, None]
        width = radius * np.cbrt(child_count / total)
        pieces.append(_curve(position[parent], end, heading[parent], length, width))

        growing = child_count > 1
        position, heading = end[growing], _unit(0.6 * bent + 0.4 * _unit(aim))[growing]
        supplied = growing[child]
        points, owner = points[supplied], (np.cumsum(growing) - 1)[child[supplied]]
    return Tree(Segments.join(pieces), np.concatenate(branchings), np.concatenate(branching_radii))


def _curve(start: np.ndarray, end: np.ndarray, heading: np.ndarray, length: np.ndarray, width: np.ndarray) -> Segments:
    """Branches as quadratic Bezier curves that leave along the parent's heading, so that a tree bends instead of zigzagging."""
    control = start + heading * (0.3 * length)[:, None]
    steps = np.linspace(0.0, 1.0, _CURVE_PIECES + 1)
    knots = [(1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end for t in steps]
    radii = [width * (1.05 - 0.1 * t) for t in steps]
    return Segments.join([Segments(knots[i], knots[i + 1], radii[i], radii[i + 1]) for i in range(_CURVE_PIECES)])


def _splitting_normals(offsets: np.ndarray, owner: np.ndarray, along: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Normals (n, 3) of the splitting planes: the widest direction of each group across its branch, tilted a little at random."""
    groups = len(along)
    covariance = np.empty((groups, 3, 3))
    for i in range(3):
        for j in range(i, 3):
            covariance[:, i, j] = covariance[:, j, i] = np.bincount(owner, weights=offsets[:, i] * offsets[:, j], minlength=groups)
    across = np.eye(3) - along[:, :, None] * along[:, None, :]
    widest = np.linalg.eigh(across @ covariance @ across)[1][:, :, -1]
    return _unit(widest + 0.2 * rng.standard_normal((groups, 3)))


def _limit_angle(direction: np.ndarray, reference: np.ndarray, degrees: float) -> np.ndarray:
    """Unit directions turned towards their unit references until the angle between them is at most `degrees`."""
    cosine = np.einsum("nd,nd->n", direction, reference)[:, None]
    sideways = _unit(direction - cosine * reference)
    limit = np.radians(degrees)
    return np.where(cosine < np.cos(limit), np.cos(limit) * reference + np.sin(limit) * sideways, direction)


def _group_mean(points: np.ndarray, owner: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(owner, weights=points[:, d], minlength=len(count)) for d in range(3)], axis=1) / count[:, None]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
