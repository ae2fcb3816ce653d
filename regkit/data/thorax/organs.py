"""The shapes of a breathed-in thorax as functions of a position.

Positions x, y, z are in mm, towards the person's right, front and head (RAS), with 0 in the middle of the chest; tensors of any shapes that
broadcast. A `*_depth` function gives roughly how deep a position lies inside a shape, in mm, negative outside: exact near the surface for
ellipsoids, within a third elsewhere, which is all that soft edges need. Analytic shapes can be seen in any scan, however deformed, without
resampling.
"""

import torch
from torch import Tensor

# the part of the body that all shapes together describe, in mm; the default field of view
EXTENT = (336.0, 280.0, 320.0)
SPINE_Y = -70.0
_CAVITY_HALF = (128.0, 92.0)
_CAVITY_Y = -5.0
_CAVITY_WIDEST_Z, APEX_Z = -60.0, 138.0


def smoothstep(value: Tensor, low: float, high: float) -> Tensor:
    """Rises from 0 at `low` to 1 at `high` without a kink."""
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def ellipsoid_depth(x: Tensor, y: Tensor, z: Tensor, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Tensor:
    """Depth inside an axis-aligned ellipsoid; an infinite radius makes a cylinder."""
    scaled = [(axis - middle) / radius for axis, middle, radius in zip((x, y, z), centre, radii)]
    norm = (scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2).sqrt()
    slope = ((scaled[0] / radii[0]) ** 2 + (scaled[1] / radii[1]) ** 2 + (scaled[2] / radii[2]) ** 2).sqrt()
    return (1 - norm) * norm / slope.clamp_min(1e-4)


def body_depth(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Inside the skin: a rounded oblong that narrows at the shoulders."""
    shrink = 1 - 0.2 * smoothstep(z, 80.0, 190.0)
    squared = (x.abs() / (154 * shrink)) ** 2.5 + ((y + 5).abs() / (114 * shrink)) ** 2.5
    return (1 - squared ** (1 / 2.5)) * 120


def cavity_depth(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Inside the rib cage; open below, where the abdomen follows."""
    rise = ((z - _CAVITY_WIDEST_Z) / (APEX_Z - _CAVITY_WIDEST_Z)).clamp_min(0)
    squared = (x.abs() / _CAVITY_HALF[0]) ** 2.3 + ((y - _CAVITY_Y).abs() / _CAVITY_HALF[1]) ** 2.3 + rise**2.6
    return (1 - squared ** (1 / 2.3)) * 100


def cavity_outline(angle: Tensor, z: Tensor, outside: float) -> Tensor:
    """Points (..., 3) around the right half of the cavity, `outside` mm off its wall; angle 0 is at the back, pi at the front."""
    rise = ((z - _CAVITY_WIDEST_Z) / (APEX_Z - _CAVITY_WIDEST_Z)).clamp(0, 0.999)
    shrink = (1 - rise**2.6) ** (1 / 2.3)
    power = 2 / 2.3
    x = (_CAVITY_HALF[0] * shrink + outside) * angle.sin().abs() ** power
    y = _CAVITY_Y - (_CAVITY_HALF[1] * shrink + outside) * angle.cos().sign() * angle.cos().abs() ** power
    return torch.stack([x, y, z], dim=-1)


def diaphragm_height(x: Tensor, y: Tensor) -> Tensor:
    """Height z of the diaphragm: two domes, the right one higher, falling into deep recesses at the sides and at the back."""
    right = (((x - 66) / 60) ** 2 + ((y - 10) / 66) ** 2) ** 1.5
    left = (((x + 66) / 58) ** 2 + ((y - 8) / 64) ** 2) ** 1.5
    return -132 + 84 * torch.exp(-right) + 70 * torch.exp(-left)


def heart_depth(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The heart: an ellipsoid whose tip points to the left, front and down, and the left atrium behind it."""
    atrium = ellipsoid_depth(x, y, z, (2.0, -12.0, -22.0), (32.0, 22.0, 28.0))
    return torch.maximum(atrium, _ventricles_depth(x, y, z))


def _ventricles_depth(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return ellipsoid_depth(x - 0.25 * (z + 45), y, z + 0.25 * (x + 20), (-20.0, 24.0, -46.0), (58.0, 46.0, 50.0))


def spine_distance(x: Tensor, y: Tensor) -> Tensor:
    """Distance from the axis of the spine."""
    return (x**2 + (y - SPINE_Y) ** 2).sqrt()


def mediastinum_depth(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """All that parts the lungs: heart, great vessels, spine, and thin walls before and behind them."""
    wider = 8 * smoothstep(z, 40.0, 110.0)
    central = ellipsoid_depth(x, y, torch.zeros(()), (0.0, -14.0, 0.0), (24.0, 52.0, float("inf"))) + wider
    walls = torch.where(y > 0, 7.0, 12.0) - x.abs()
    spine = 24 - spine_distance(x, y)
    aorta = torch.minimum(15 - ((x + 21) ** 2 + (y + 48) ** 2).sqrt(), 74 - z)
    spine = torch.maximum(spine, aorta)
    return torch.maximum(torch.maximum(torch.maximum(central, walls), spine), heart_depth(x, y, z) + 2)


def lung_depth(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Inside the lungs, both of them; right where x > 0."""
    above = 0.8 * (z - diaphragm_height(x, y))
    return torch.minimum(torch.minimum(cavity_depth(x, y, z), above), -mediastinum_depth(x, y, z))


def fissure_distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Distance from the fissures between the lobes: an oblique one in both lungs, a level one in front of it in the right lung."""
    bulge = 6 * torch.cos(x / 25)
    oblique = 0.64 * (y + 20) + 0.77 * (z - 5) + bulge
    level = z - 12 - bulge
    has_level = (x > 0) & (oblique > 0)
    return torch.where(has_level, torch.minimum(level.abs(), oblique.abs()), oblique.abs())
