"""Small scans in files, as a user would have them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from regkit.geometry import Grid, Image, write_image


def blobs(grid: Grid, seed: int) -> tuple[Image, Image]:
    """A scan of a few round things on a dark background, and their labels 1, 2 and 3."""
    random = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    scan, labels = np.zeros(grid.shape), np.zeros(grid.shape, np.uint8)
    for label in (1, 2, 3):
        center = np.asarray(grid.shape) * random.uniform(0.3, 0.7, grid.ndim)
        inside = np.linalg.norm(index - center, axis=-1) < min(grid.shape) / 4
        scan[inside], labels[inside] = 100.0 * label, label
    return Image((scan + random.normal(0, 3, grid.shape)).astype(np.float32), grid), Image(labels, grid)


@pytest.fixture
def write_cases(tmp_path: Path) -> Callable[..., Path]:
    """Writes scans, label maps and masks of the given shapes and the manifest of them; rows are more cells, by column."""

    def write(shapes: list[tuple[int, ...]], rows: list[dict[str, str]] | None = None, parts: tuple[str, ...] = ("label",)) -> Path:
        table = []
        for n, shape in enumerate(shapes):
            scan, labels = blobs(Grid.from_spacing(shape, 2.0), seed=n)
            write_image(scan, tmp_path / f"scan{n}.nii.gz")
            cells = {"image": f"scan{n}.nii.gz"}
            if "label" in parts:
                write_image(labels, tmp_path / f"labels{n}.nii.gz")
                cells["label"] = f"labels{n}.nii.gz"
            if "mask" in parts:
                write_image(Image((labels.data > 0).astype(np.uint8), labels.grid), tmp_path / f"mask{n}.nii.gz")
                cells["mask"] = f"mask{n}.nii.gz"
            table.append(cells | (rows[n] if rows else {}))
        columns = list(dict.fromkeys(name for cells in table for name in cells))
        lines = [",".join(columns), *(",".join(cells.get(name, "") for name in columns) for cells in table)]
        path = tmp_path / "data.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write
