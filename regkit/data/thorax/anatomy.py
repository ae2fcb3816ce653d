"""What is in the thorax: the tubes (vessels, airways, ribs) of one made person, and the CT numbers and organ labels at a position.

Everything is a function of the position in the breathed-in person (mm, RAS), see organs.py; scans sample it where their voxels lie.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from regkit.data.thorax import organs
from regkit.data.thorax.organs import ellipsoid_depth, smoothstep
from regkit.data.thorax.trees import Segments, Tree, grow_tree

ORGANS = {1: "right lung", 2: "left lung", 3: "heart", 4: "aorta", 5: "liver", 6: "spine", 7: "ribs", 8: "airways"}

_AIR, _PARENCHYMA, _FAT, _SOFT, _BLOOD, _LIVER, _BONE = -1000.0, -870.0, -95.0, 35.0, 45.0, 62.0, 420.0
_WALL = (1.15, 0.35)
_SUPPLIED_POINTS = {"artery": 2600, "vein": 2000, "airway": 420}
_RIBS = 11


@dataclass(frozen=True)
class Anatomy:
    """Tubes by kind, in mm, and the branchings (B, 3) mm of the trees in the lungs with the radius (B,) mm of the vessel that branches."""

    tubes: dict[str, Segments]
    branchings: np.ndarray
    branching_radii: np.ndarray


def make_anatomy(rng: np.random.Generator) -> Anatomy:
    """Grows one person's vessels and airways and lays out the ribs."""
    trees: dict[str, list[Tree]] = {"artery": [], "vein": [], "airway": []}
    for side in (1.0, -1.0):
        # the airway and the artery supply the same tissue side by side; veins run between them from a lower root
        cloud = _lung_cloud(_SUPPLIED_POINTS["artery"], side, rng)
        trees["airway"].append(
            grow_tree(cloud[: _SUPPLIED_POINTS["airway"]], np.array([side * 40, -26, 12]), np.array([side, -0.1, -0.5]), 5.2, rng)
        )
        trees["artery"].append(grow_tree(cloud, np.array([side * 34, -14, 16]), np.array([side, 0.0, -0.4]), 7.0, rng))
        trees["vein"].append(
            grow_tree(
                _lung_cloud(_SUPPLIED_POINTS["vein"], side, rng), np.array([side * 30, -4, -10]), np.array([side, 0.2, -0.2]), 6.4, rng
            )
        )
    vessels = trees["artery"] + trees["vein"]
    airways = Segments.join([tree.segments for tree in trees["airway"]])
    trunk = _trachea()
    tubes = {
        "vessels": Segments.join([tree.segments for tree in vessels]),
        "airway walls": airways.widened(*_WALL),
        "airways": airways,
        "trunk walls": trunk.widened(*_WALL),
        "trunk": trunk,
        "great vessels": _great_vessels(),
        "aorta": _aorta(),
        "ribs": _ribs(),
    }
    return Anatomy(
        {name: tube.subdivided(4.0) for name, tube in tubes.items()},
        np.concatenate([tree.branchings for tree in vessels]),
        np.concatenate([tree.branching_radii for tree in vessels]),
    )


def tissue(
    x: Tensor, y: Tensor, z: Tensor, tubes: dict[str, Tensor], texture: Tensor, edge: float, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """CT numbers and labels at positions (mm; broadcast to `shape`).

    Args:
        tubes: coverage in [0, 1] by each kind of tube, of `shape`.
        texture: unevenness of the tissues, unit variance, of `shape`.
        edge: width of an organ's edge in mm.

    Returns:
        (HU float32, label uint8 as in ORGANS), both of `shape`.
    """

    def share(depth: Tensor) -> Tensor:
        return (0.5 + depth / edge).clamp(0, 1)

    inside_lung = share(organs.lung_depth(x, y, z))
    cavity = organs.cavity_depth(x, y, z)
    height = z - organs.diaphragm_height(x, y)
    heart = share(torch.minimum(organs.heart_depth(x, y, z), height - 2))
    liver = share(torch.minimum(torch.minimum(-height - 4, cavity - 3), (x + 30 - 0.6 * (z + 115)) * 0.8))
    spine, spine_hu = _spine(x, y, z, share)
    body = organs.body_depth(x, y, z)
    share_of_ribs = tubes["ribs"]

    hu = torch.full(shape, _AIR)
    hu = hu.lerp(_FAT + 8 * texture, share(body))
    # muscle between a fat layer that is thicker in front and the rib cage
    hu = hu.lerp(_SOFT + 12 * texture, share(torch.minimum(body - 9 - 4 * smoothstep(y, 0.0, 90.0), -cavity - 0.5)))
    hu = hu.lerp(_SOFT + 10 * texture, share(torch.minimum(cavity, -height)) * smoothstep(texture, -1.2, -0.2))
    hu = hu.lerp(_LIVER + 8 * texture, liver)
    hu = hu.lerp(torch.tensor(_AIR + 50), share(ellipsoid_depth(x, y, z, (-62.0, 22.0, -100.0), (26.0, 22.0, 13.0))))
    hu = hu.lerp(_BLOOD + 4 * texture, heart)
    for kind in ("great vessels", "aorta"):
        hu = hu.lerp(torch.tensor(_BLOOD), tubes[kind])
    hu = hu.lerp(spine_hu + 40 * texture, spine)
    sternum = share(torch.minimum(ellipsoid_depth(x, y, z, (0.0, 96.0, 20.0), (19.0, 6.5, 85.0)), body - 6))
    hu = hu.lerp(150 + 60 * texture, sternum)
    hu = hu.lerp(_BONE - 180 * smoothstep(share_of_ribs, 0.75, 1.0), share_of_ribs)
    hu = hu.lerp(torch.tensor(_SOFT), tubes["trunk walls"])

    lung = _PARENCHYMA - 0.35 * y + 22 * texture
    lung = lung.lerp(torch.tensor(-640.0), (1 - organs.fissure_distance(x, y, z) / edge).clamp_min(0) * min(1.0, 1.5 / edge))
    lung = lung.lerp(torch.tensor(_BLOOD), tubes["vessels"])
    lung = lung.lerp(torch.tensor(_SOFT), tubes["airway walls"])
    lung = lung.lerp(torch.tensor(_AIR), tubes["airways"])
    hu = hu.lerp(lung, inside_lung * (1 - tubes["trunk walls"]))
    hu = hu.lerp(torch.tensor(_AIR), tubes["trunk"])

    label = torch.zeros(shape, dtype=torch.uint8)
    right = (x > 0).expand(shape)
    for number, part in ((5, liver), (3, heart), (4, tubes["aorta"]), (6, spine), (7, share_of_ribs)):
        label[(part > 0.5).expand(shape)] = number
    label[(inside_lung > 0.5) & right] = 1
    label[(inside_lung > 0.5) & ~right] = 2
    label[tubes["trunk walls"] > 0.5] = 8
    return hu, label


def _spine(x: Tensor, y: Tensor, z: Tensor, share: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Share and CT numbers of the vertebrae: bodies with hard rims parted by soft discs, arches, spinous and transverse processes."""
    period = 25.0
    phase = torch.remainder(z, period) - period / 2
    disc = share(phase.abs() - period / 2 + 2.8)
    body = ellipsoid_depth(x, y, torch.zeros(()), (0.0, organs.SPINE_Y + 4, 0.0), (19.0, 16.0, float("inf"))) - 1.5 * disc
    canal = ellipsoid_depth(x, y, torch.zeros(()), (0.0, organs.SPINE_Y - 21, 0.0), (10.0, 9.0, float("inf")))
    gap = 9 - phase.abs()
    arch = torch.minimum(torch.minimum(canal + 6, -canal), gap)
    spike = torch.minimum(torch.minimum(3.5 - x.abs(), 8 - (y - organs.SPINE_Y + 36).abs()), gap)
    wings = torch.minimum(ellipsoid_depth(x, y + 0.3 * x.abs(), phase, (0.0, organs.SPINE_Y - 12, 0.0), (40.0, 6.0, 7.0)), -canal)
    bone = torch.maximum(torch.maximum(body, arch), torch.maximum(spike, wings))
    rim = 1 - smoothstep(bone, 1.0, 4.0)
    return share(bone), torch.lerp(180 + 260 * rim, torch.tensor(80.0), disc)


def _lung_cloud(count: int, side: float, rng: np.random.Generator) -> np.ndarray:
    """Points (count, 3) spread evenly in one lung, a little off its surface."""
    half = np.asarray(organs.EXTENT) / 2
    found = np.empty((0, 3))
    while len(found) < count:
        points = rng.uniform([0.0, -half[1], -half[2]], half, size=(6 * count, 3)) * [side, 1, 1]
        depth = organs.lung_depth(*torch.from_numpy(points).unbind(1)).numpy()
        found = np.concatenate([found, points[depth > 3]])
    return found[:count]


def _ribs() -> Segments:
    """Ribs that start beside the spine and slope down around the rib cage, each a little lower and longer than the last."""
    parts = []
    for number in range(_RIBS):
        top = 122.0 - 24.0 * number
        angle = torch.linspace(0.16, (0.62 + 0.24 * min(number / 3, 1.0)) * np.pi * (1.0 if number < 9 else 0.75), 48)
        drop = 20 + 4.0 * min(number, 8)
        z = top - drop * (angle / np.pi) ** 1.2
        curve = organs.cavity_outline(angle, z, 6.5).numpy()
        for side in (1.0, -1.0):
            parts.append(Segments.polyline(curve * [side, 1, 1], 5.0))
    return Segments.join(parts)


def _trachea() -> Segments:
    """The trachea and the two main bronchi."""
    trachea = Segments.polyline(np.array([[0, -12, 175], [0, -18, 100], [0, -24, 42]]), np.array([8.5, 8.5, 8.0]))
    right = Segments.polyline(np.array([[0, -24, 44], [14, -26, 30], [28, -26, 20], [42, -26, 11]]), np.array([7.5, 6.5, 5.8, 5.2]))
    left = Segments.polyline(np.array([[0, -24, 44], [-14, -25, 32], [-30, -26, 20], [-42, -26, 11]]), np.array([7.0, 6.2, 5.6, 5.2]))
    return Segments.join([trachea, right, left])


def _aorta() -> Segments:
    """Out of the heart, over the left main bronchus, down beside the spine."""
    ascending = [[-2, 18, -10], [10, 14, 20], [10, 8, 48], [2, -4, 68]]
    descending = [[-12, -24, 74], [-22, -42, 64], [-24, -50, 45], [-22, -48, -40], [-14, -44, -175]]
    return Segments.polyline(np.array(ascending + descending), np.array([14, 14, 13.5, 13, 12.5, 12, 12, 11, 10.5]))


def _great_vessels() -> Segments:
    """Vena cava, gullet, the pulmonary trunk with its two branches, and the veins into the left atrium."""
    cava = Segments.polyline(np.array([[22, 4, -5], [24, 2, 60], [20, 0, 110], [34, 6, 150]]), np.array([10, 9, 8.5, 6]))
    trunk = Segments.polyline(np.array([[-16, 36, -5], [-18, 22, 20], [-14, 0, 28]]), np.array([13, 13, 12]))
    right = Segments.polyline(np.array([[-14, 0, 28], [12, -8, 24], [34, -14, 16]]), np.array([11, 9.5, 8]))
    left = Segments.polyline(np.array([[-14, 0, 28], [-24, -8, 24], [-34, -14, 16]]), np.array([11, 9, 8]))
    veins = [Segments.polyline(np.array([[side * 6, -4, -14], [side * 30, -4, -10]]), np.array([9, 7])) for side in (1, -1)]
    carotid = np.array([[8, -2, 72], [14, -2, 110], [18, 0, 175]])
    carotids = [Segments.polyline(carotid * [side, 1, 1], np.array([5, 4.5, 4])) for side in (1, -1)]
    gullet = Segments.polyline(np.array([[-2, -36, 175], [-4, -40, 40], [-2, -40, -40], [-10, -34, -110]]), np.array([7, 7, 8, 8]))
    return Segments.join([cava, gullet, trunk, right, left, *veins, *carotids])
