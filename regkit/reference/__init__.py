"""Every op in plain torch: the specification. Slow, readable, on any device; same names and arguments as the torch.ops.regkit ops."""

from regkit.reference.correlate import correlate_keypoints, correlate_keypoints_backward
from regkit.reference.lncc import lncc, lncc_map, lncc_map_backward
from regkit.reference.mind import mind_ssc, mind_ssc_backward
from regkit.reference.warp import warp, warp_backward, warp_nearest

__all__ = [
    "correlate_keypoints",
    "correlate_keypoints_backward",
    "lncc",
    "lncc_map",
    "lncc_map_backward",
    "mind_ssc",
    "mind_ssc_backward",
    "warp",
    "warp_backward",
    "warp_nearest",
]
