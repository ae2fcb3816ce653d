"""regkit apply: carry images, label maps and landmarks through a transform, by the names of spaces rather than by forward and inverse."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from regkit.errors import InputError, UsageError

if TYPE_CHECKING:
    from regkit.geometry import Grid, Image, Points, Transform

POINT_SUFFIXES = (".csv", ".fcsv", ".txt", ".pts", ".json")
IMAGE_SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd", ".png", ".tif", ".tiff")
MANY_LABELS = 200  # a label map with more is likely a grey scan stored as integers


@dataclass
class Apply:
    """Move images, label maps and landmarks from the moving to the fixed space, or back.

    Label maps (integer types) keep their type and label set. Landmarks: .csv with x,y,z in RAS mm, .fcsv, .mrk.json, elastix .txt.
    """

    transform: Annotated[Positional[Path], arg(metavar="OUT|XFM")]
    """Directory that regkit register wrote, or a transform file (.h5, .tfm, .mat, .nii.gz field)."""
    inputs: Annotated[Positional[tuple[Path, ...]], arg(metavar="INPUT...", help_behavior_hint="(needed)")]
    """Files to move."""
    out: Annotated[Path | None, arg(aliases=["-o"], metavar="DIR", help_behavior_hint="(needed)")] = None
    """Directory for the moved files, which keep their names."""
    to: Literal["fixed", "moving"] = "fixed"
    """The space to go to; the inputs lie in the other one."""
    interpolation: Literal["auto", "linear", "nearest"] = "auto"
    """auto: nearest for integer types (labels), linear for floats."""
    reference: Annotated[Path | None, arg(metavar="IMAGE", help_behavior_hint="")] = None
    """Image whose grid the moved images take; needed with a transform file, else the fixed or moving grid of OUT."""
    header: Literal["auto", "sform", "qform"] = "auto"
    """NIfTI geometry to trust in the inputs."""
    quiet: Annotated[bool, arg(help_behavior_hint="")] = False
    """Say nothing."""

    def run(self) -> int:
        """Move the inputs; 0 when done. Raises RegkitError."""
        from regkit.commands.console import say

        targets = self._targets()
        route = _Route.read(self.transform, self.to, self.reference, images=any(not is_points(path) for path in self.inputs))
        self.out.mkdir(parents=True, exist_ok=True)
        for source, target in targets.items():
            if is_points(source):
                route.points(source).save(target)
            else:
                self._move_image(source, route).save(target)
            say(str(target), self.quiet)
        return 0

    def _targets(self) -> dict[Path, Path]:
        """Where each input goes. Raises UsageError for what would overwrite an input or another output."""
        from regkit.registration.save import check_output

        if self.out is None:
            raise UsageError("regkit apply needs -o DIR, the directory for the moved files; see regkit apply --help")
        if not self.inputs:
            raise UsageError(f"regkit apply {self.transform} has nothing to move; name images, label maps or landmark files after it")
        check_output(self.out)
        targets: dict[Path, Path] = {}
        for source in self.inputs:
            if not source.exists():
                raise InputError(f"no such file: {source}")
            target = self.out / output_name(source)
            if target in targets.values():
                raise UsageError(f"two inputs are called {target.name}; apply them into different directories")
            if target.exists() and any(target.samefile(other) for other in self.inputs):
                raise UsageError(f"{target} is an input itself; choose another -o")
            targets[source] = target
        return targets

    def _move_image(self, source: Path, route: "_Route") -> "Image":
        import numpy as np

        from regkit.commands.console import say
        from regkit.geometry import read_image, resample

        image = read_image(source, name=source.name, header=self.header)
        labels = image.is_labels if self.interpolation == "auto" else self.interpolation == "nearest"
        if labels and self.interpolation == "auto" and (count := len(np.unique(image.data))) > MANY_LABELS:
            say(
                f"{source}: {image.data.dtype} with {count} values, moved as a label map; a grey scan needs --interpolation linear",
                self.quiet,
            )
        moved = resample(image, route.grid, route.pull, labels=labels)
        if output_name(source).lower().endswith(".png") and not moved.is_labels and image.is_labels:
            moved = replace(moved, data=np.rint(moved.data).astype(image.data.dtype))  # PNG holds integers only
        return moved


@dataclass(frozen=True)
class _Route:
    """What moves things to one space: images are pulled from there, points are pushed there."""

    pull: "Transform"  # points of the target space to points of the source space
    push: "Transform | None"  # the way back; None when only `pull` is known
    grid: "Grid | None"  # of the target space, for images
    source_grid: "Grid | None"  # for landmarks that count in voxels

    @classmethod
    def read(cls, path: Path, to: str, reference: Path | None, images: bool) -> "_Route":
        from regkit.geometry import load_transform, read_image
        from regkit.registration.save import load_run

        grid = None if reference is None else read_image(reference, name="reference").grid
        if path.is_dir():
            run = load_run(path)
            if to == "fixed":
                return cls(run.transform, run.inverse, grid or run.fixed_grid, run.moving_grid)
            return cls(run.inverse, run.transform, grid or run.moving_grid, run.fixed_grid)
        transform = load_transform(path)
        if to == "moving":
            if images:
                raise UsageError(f"{path} pulls images to the fixed space; for --to moving give OUT, or the inverse's file without --to")
            return cls(transform, transform, grid, None)
        if images and grid is None:
            raise UsageError(f"{path} names no grid for the moved images; add --reference with an image of the fixed space")
        return cls(transform, None, grid, None)

    def points(self, path: Path) -> "Points":
        from regkit.commands.invert import solve
        from regkit.geometry import read_points

        points = read_points(path, self.source_grid)
        moved = solve(self.pull, points.coordinates) if self.push is None else self.push.apply(points.coordinates)
        return replace(points, coordinates=moved)


def is_points(path: Path) -> bool:
    """Whether a file holds landmarks, by its suffix."""
    return path.name.lower().endswith(POINT_SUFFIXES)


def output_name(source: Path) -> str:
    """The input's name; JPEG (which would smear labels) becomes .png, DICOM folders and other formats .nii.gz."""
    name = source.resolve().name
    if is_points(source) or name.lower().endswith(IMAGE_SUFFIXES):
        return name
    return (
        f"{Path(name).stem}.png" if name.lower().endswith((".jpg", ".jpeg")) else f"{name if source.is_dir() else Path(name).stem}.nii.gz"
    )
