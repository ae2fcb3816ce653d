"""The area-weighted robust Hausdorff distance, against surfaces that are built polygon by polygon, boxes, and plain loops."""

from itertools import product
from math import inf, sqrt

import numpy as np
import pytest

from regkit.metrics.area_hausdorff import _CORNERS, _TABLE, area_hd95


def polygons(inside):
    """The closed polygons through the middles of a unit cube's cut edges that part `inside` (at most 4 corners) from the rest."""
    segments = []
    for axis, side in product(range(3), (0, 1)):
        first, second = (other for other in range(3) if other != axis)
        around = []
        for place in ((0, 0), (0, 1), (1, 1), (1, 0)):
            corner = [side] * 3
            corner[first], corner[second] = place
            around.append(tuple(corner))
        middles = [tuple((a + b) / 2 for a, b in zip(around[i], around[(i + 1) % 4])) for i in range(4)]
        cut = [i for i in range(4) if (around[i] in inside) != (around[(i + 1) % 4] in inside)]
        if len(cut) == 2:
            segments.append((middles[cut[0]], middles[cut[1]]))
        elif len(cut) == 4:  # two corners inside, across: each is cut off by itself
            segments += [(middles[i - 1], middles[i]) for i in range(4) if around[i] in inside]
    while segments:
        polygon = list(segments.pop())
        while polygon[-1] != polygon[0]:
            step = next(s for s in segments if polygon[-1] in s)
            segments.remove(step)
            polygon.append(step[step[0] == polygon[-1]])
        yield [np.array(point) for point in polygon[:-1]]


def area(polygon):
    """In triangles from one vertex; of a polygon that is not flat, the largest such area, which is marching cubes' choice here."""
    fans = (polygon[start:] + polygon[:start] for start in range(len(polygon)))
    return max(sum(np.linalg.norm(np.cross(b - fan[0], c - fan[0])) / 2 for b, c in zip(fan[1:], fan[2:])) for fan in fans)


def test_areas_of_all_neighbourhoods():
    for code in range(256):
        inside = {corner for bit, corner in enumerate(_CORNERS) if code >> bit & 1}
        smaller = inside if len(inside) <= 4 else set(_CORNERS) - inside
        assert _TABLE[code] == pytest.approx(sum(map(area, polygons(smaller))), abs=1e-12), inside


def weighted(fixed, moved):
    """The definition in plain loops: lattice points between 2x2x2 voxels, brute-force distances, areas from the polygons."""

    def surface(mask):
        mask = np.pad(mask, 1)
        for at in np.ndindex(*(n - 1 for n in mask.shape)):
            inside = {corner for corner in _CORNERS if mask[tuple(np.add(at, corner))]}
            if 0 < len(inside) < 8:
                yield at, sum(map(area, polygons(inside if len(inside) <= 4 else set(_CORNERS) - inside)))

    surfaces = [list(surface(mask)) for mask in (fixed, moved)]
    found = []
    for here, there in (surfaces, surfaces[::-1]):
        pairs = sorted((min(np.linalg.norm(np.subtract(at, other)) for other, _ in there), weight) for at, weight in here)
        total, sofar = sum(weight for _, weight in pairs), 0.0
        for distance, weight in pairs:
            sofar += weight
            if sofar / total >= 0.95:
                break
        found.append(distance)
    return max(found)


@pytest.mark.parametrize("seed", range(3))
def test_against_loops(seed):
    random = np.random.default_rng(seed)
    fixed, moved = random.uniform(size=(2, 6, 5, 7)) < (0.15, 0.4, 0.6)[seed]
    fixed[0, 0], moved[-1] = False, False
    assert area_hd95(fixed, moved) == pytest.approx(weighted(fixed, moved), abs=1e-12)


@pytest.mark.parametrize(("height", "expected"), [(2, 0), (30, 14)])
def test_area_decides(height, expected):
    """A plate, and the same with a mast, which counts once it has more than 5 % of the surface.

    Of about 917, the mast of 30 has 85. Its tip (0.9) and the 15 rings of 2.8 below stay under 5 %, so the ring at 14 is reached."""
    plate = np.zeros((24, 24, 40), bool)
    plate[2:22, 2:22, 2] = True
    mast = plate.copy()
    mast[12, 12, 2 : 3 + height] = True
    # plate: two faces of 19 x 19, four rims of 19 x 2 edges of sqrt(2) / 2; mast: 4 edges of sqrt(2) / 2 a voxel
    share = height * 4 * sqrt(2) / 2 / (2 * 19**2 + 4 * 19 * 2 * sqrt(2) / 2 + height * 4 * sqrt(2) / 2)
    assert (share > 0.05) == (expected > 0)
    assert area_hd95(plate, mast) == pytest.approx(expected, abs=0)


def test_shifted_box_and_the_border():
    box = np.zeros((12, 12, 12), bool)
    box[:5, 3:8, 3:8] = True
    assert area_hd95(box, box) == 0
    assert area_hd95(box, np.roll(box, 3, axis=0)) == 3
    flipped = box[::-1]
    assert area_hd95(flipped, np.roll(flipped, -3, axis=0)) == 3


def test_one_that_is_empty_is_infinitely_far():
    box = np.zeros((4, 4, 4), bool)
    filled = ~box
    assert area_hd95(box, filled) == area_hd95(filled, box) == inf


def test_area_of_a_box():
    """Faces of (a - 1)(b - 1), edges of sqrt(2) / 2 a voxel, corners of sqrt(3) / 8, as a smooth box with cut edges has."""
    from regkit.metrics.area_hausdorff import _codes

    sides = (4, 5, 7)
    inner = [n - 1 for n in sides]
    faces = 2 * (inner[0] * inner[1] + inner[1] * inner[2] + inner[0] * inner[2])
    expected = faces + 4 * sum(inner) * sqrt(2) / 2 + 8 * sqrt(3) / 8
    assert _TABLE[_codes(np.pad(np.ones(sides, bool), 1))].sum() == pytest.approx(expected)
