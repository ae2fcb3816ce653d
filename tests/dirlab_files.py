"""Made files as DIR-Lab distributes its scans: of a small breathing thorax."""

from pathlib import Path

import numpy as np

from regkit.data import Phantom, dirlab

NAMES = {
    ("4dct", 1): ("Case1Pack/Images/case1_T00_s.img", "Case1Pack/Images/case1_T50_s.img")
    + ("Case1Pack/ExtremePhases/Case1_300_T00_xyz.txt", "Case1Pack/ExtremePhases/Case1_300_T50_xyz.txt"),
    ("4dct", 6): ("Case6Pack/Images/case6_T00.img", "Case6Pack/Images/case6_T50.img")
    + ("Case6Pack/ExtremePhases/case6_dirLab300_T00_xyz.txt", "Case6Pack/ExtremePhases/case6_dirLab300_T50_xyz.txt"),
    ("copd", 10): (
        "copd10/copd10_iBHCT.img",
        "copd10/copd10_eBHCT.img",
        "copd10/copd10_300_iBH_xyz_r1.txt",
        "copd10/copd10_300_eBH_xyz_r1.txt",
    ),
}


def shrink(monkeypatch, shape: tuple[int, int, int], pixel_mm: float, slice_mm: float) -> None:
    """Makes every case of DIR-Lab's tables as small as the made scans."""
    side, _, slices = shape
    assert shape[0] == shape[1]
    for which in ("4dct", "copd"):
        monkeypatch.setitem(dirlab.IN_PLANE, which, (side,) * 10)
        monkeypatch.setitem(dirlab.SLICES, which, (slices,) * 10)
        monkeypatch.setitem(dirlab.PIXEL_MM, which, (pixel_mm,) * 10)
    monkeypatch.setattr(dirlab, "SLICE_MM", slice_mm)


def write(root: Path, which: str, number: int, made: Phantom) -> None:
    """The four files of a case."""
    scans = (made.fixed, made.moving)
    points = [scan.grid.to_index(p.coordinates) for scan, p in zip(scans, (made.fixed_points, made.moving_points))]
    names = [root / name for name in NAMES[which, number]]
    for name in names:
        name.parent.mkdir(parents=True, exist_ok=True)
    for name, scan in zip(names[:2], scans):
        stored = np.asarray(scan.data, np.float64).round().astype("<i2") + 1024
        name.write_bytes(stored.astype("<i2").tobytes(order="F"))
    for name, voxels in zip(names[2:], points):
        name.write_text("\n".join(" ".join(str(int(v)) for v in row) for row in np.floor(voxels + 0.5).astype(int) + 1) + " \n")
