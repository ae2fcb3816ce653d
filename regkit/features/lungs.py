"""The lungs of a chest CT by its grey values: for scans that come without masks."""

import numpy as np

from regkit.errors import InputError
from regkit.geometry import Image

AIR_HU = -400.0  # halfway between lung at about -800 and soft tissue
SMALLEST_SHARE = 0.1  # of the largest lung: smaller pieces are bowel, stomach, airways
CLOSING_MM = 6.0  # vessels and nodules narrower than twice this belong to the lungs


def lung_mask(scan: Image) -> Image:
    """Both lungs, vessels included, as uint8 on the scan's grid; 1 inside.

    scan: 3-D, Hounsfield units. Air is below -400 HU; what of it can be reached from the sides of the volume within a slice is outside the
    patient; of the rest the largest pieces are lungs, closed by 6 mm.

    Raises InputError where nothing like a lung is there.
    """
    from scipy import ndimage

    if scan.ndim != 3:
        raise InputError(f"{scan.name}: lungs are found in 3-D CT, but it has {scan.ndim} axes")
    air = np.asarray(scan.data) < AIR_HU
    # Outside: slice by slice, since lungs are open to nothing there, and a volume often ends within them above and below.
    across = ndimage.generate_binary_structure(3, 1)
    through = int(np.argmax(np.abs(np.asarray(scan.grid.affine)[2, :3])))  # the axis along the patient
    across[tuple(slice(None) if axis != through else (0, 2) for axis in range(3))] = False
    rim = np.ones(scan.grid.shape, bool)
    rim[tuple(slice(1, -1) if axis != through else slice(None) for axis in range(3))] = False
    outside = ndimage.binary_propagation(air & rim, structure=across, mask=air)
    pieces, count = ndimage.label(air & ~outside)
    if count == 0:
        raise InputError(f"{scan.name}: no lungs found: no air below {AIR_HU:g} HU inside the patient; is the scan in Hounsfield units?")
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    lungs = (sizes >= max(1, SMALLEST_SHARE * sizes.max()))[pieces]
    return Image(_closed(lungs, scan.grid.spacing).astype(np.uint8), scan.grid, f"{scan.name} lungs")


def _closed(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Grown by CLOSING_MM and shrunk again; where the mask ends with the volume it goes on beyond."""
    from scipy import ndimage

    box = ndimage.find_objects(mask.astype(np.uint8))[0]  # distances take long: of what holds the lungs alone
    margin = [int(np.ceil(CLOSING_MM / s)) + 1 for s in spacing]
    padded = np.pad(mask[box], [(m, m) for m in margin])
    for axis, (m, part) in enumerate(zip(margin, box)):
        rows = np.moveaxis(padded, axis, 0)
        if part.start == 0:
            rows[:m] = rows[m]
        if part.stop == mask.shape[axis]:
            rows[-m:] = rows[-m - 1]
    grown = ndimage.distance_transform_edt(~padded, sampling=spacing) <= CLOSING_MM
    shrunk = ndimage.distance_transform_edt(grown, sampling=spacing) > CLOSING_MM
    closed = mask.copy()
    closed[box] |= shrunk[tuple(slice(m, -m) for m in margin)]
    return closed
