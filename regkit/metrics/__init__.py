"""Measures of a registration, each with its published definition and its name."""

from regkit.metrics.area_hausdorff import area_hd95
from regkit.metrics.inverse import inverse_consistency
from regkit.metrics.jacobian import jacobian_summary
from regkit.metrics.landmarks import tre, tre_snapped, tre_summary
from regkit.metrics.overlap import dice
from regkit.metrics.surface import assd, hd95, surface_distances

__all__ = [
    "area_hd95",
    "assd",
    "dice",
    "hd95",
    "inverse_consistency",
    "jacobian_summary",
    "surface_distances",
    "tre",
    "tre_snapped",
    "tre_summary",
]
