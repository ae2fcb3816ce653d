"""The scans of a manifest, prepared for a network once and kept on disk; and the alignments of pairs of them."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from regkit.data.cache import fingerprint, key, load_or_make
from regkit.data.manifest import Case
from regkit.data.threads import each
from regkit.errors import InputError, UsageError
from regkit.geometry import Affine, Grid, Image, Points, check_scan, read_image, read_points, resample
from regkit.metrics.labels import wanted_labels
from regkit.models.input import NetworkInput, Prepared, alignment, frame, prepare
from regkit.registration.affine import mass_center
from regkit.registration.prepare import Scan
from regkit.registration.progress import Progress, silent

FORMAT = 3  # of the files in the cache, part of their names


@dataclass(frozen=True)
class PreparedCase:
    """A prepared scan and what belongs to it, as tensors that lie in the cache's files: (1, C, *shape), to be read only."""

    case: Case
    source: Grid
    """The scan's own grid, that of its file."""
    grid: Grid
    """The prepared scan's."""
    image: torch.Tensor
    """(1, 1, *grid.shape) float32, 0..1."""
    maps: torch.Tensor | None
    """(1, C, *grid.shape), the smallest integers that hold them: labels, then mask, as far as there are some (see `channels`)."""
    channels: tuple[str, ...]
    """What the channels of `maps` are: of "labels" and "mask"; labels are not among them when they have a finer grid."""
    fine: torch.Tensor | None
    """(1, 1, *(label_scale * n for n in grid.shape)): labels at a finer scale, on the same box."""
    values: tuple[int, ...]
    """The labels above 0 that the prepared label map has, sorted."""
    lowest: int
    """The smallest value in the label map; 0 where there is none."""
    mass: np.ndarray | None
    """World point: the centre of mass, where the alignment asks for it."""

    @property
    def prepared(self) -> Prepared:
        """The scan (and labels of its grid) as regkit.models.input has them; its arrays are views."""
        labels = self.maps[0, self.channels.index("labels")].numpy() if "labels" in self.channels else None
        name = f"case {self.case.name}"
        return Prepared(
            Image(self.image[0, 0].numpy(), self.grid, name), None if labels is None else Image(labels, self.grid, f"{name}, labels")
        )

    @property
    def bytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in (self.image, self.maps, self.fine) if x is not None)


class PreparedScans:
    """Cases -> `PreparedCase`, made once for a set of options and kept in files below `folder`, which are memory-mapped.

    A file's name follows from the paths, sizes and times of the case's files and from the options, so that what has changed is made
    again. At most `limit_mb` of files stay mapped in one process, the most recently used ones; pages of files that were mapped before
    mostly wait in the system's memory. An object of this class can be sent to other processes: they map the files for themselves.

    Raises InputError for files that cannot be read or registered, UsageError for options.
    """

    def __init__(self, cases: Sequence[Case], options: NetworkInput, folder: str | Path, *, label_scale: int = 1, limit_mb: float = 16384):
        if label_scale < 1 or limit_mb <= 0:
            raise UsageError(f"label_scale must be at least 1 and limit_mb above 0, but they are {label_scale} and {limit_mb}")
        self.cases, self.options, self.folder = tuple(cases), options, Path(folder).absolute()
        self.label_scale, self.limit = label_scale, limit_mb * 1e6
        self._keys = {case: self._key(case) for case in self.cases}
        self._frames: dict[tuple, Grid] = {}
        self._open: OrderedDict[Case, PreparedCase] = OrderedDict()

    def __len__(self) -> int:
        return len(self.cases)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": OrderedDict()}  # a mapped tensor would travel as a copy

    def __getitem__(self, case: Case) -> PreparedCase:
        found = self._open.get(case)
        if found is None:
            found = self._open[case] = self._load(case)
            while len(self._open) > 1 and sum(entry.bytes for entry in self._open.values()) > self.limit:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(case)
        return found

    def fill(self, progress: Progress = silent, threads: int | None = None) -> None:
        """Prepares all cases that are not in the cache yet, several at once."""
        missing = [case for case in self.cases if not self._path(case).exists()]
        each(self._load, missing, progress, "prepare scans", threads)

    def labels(self, cases: Iterable[Case] | None = None) -> tuple[int, ...]:
        """The labels above 0 that exist in any of the cases (default: all), sorted."""
        return tuple(sorted({value for case in (self.cases if cases is None else cases) for value in self[case].values}))

    def frame(self, fixed: Case, shape: Sequence[int] | None, multiple: int) -> Grid:
        """The grid on which the network sees pairs with this fixed scan: regkit.models.input.frame's, of `shape` if given."""
        wanted = (fixed, None if shape is None else tuple(shape), multiple)
        if wanted not in self._frames:
            options = self.options if shape is None else replace(self.options, shape=tuple(shape))
            self._frames[wanted] = frame(self[fixed].prepared, options, multiple)
        return self._frames[wanted]

    def alignment(self, fixed: Case, moving: Case) -> Affine:
        """Fixed world to moving world, before the network: regkit.models.input.alignment's. An affine registration is kept on disk."""
        if self.options.align == "masses":
            matrix = np.eye(self[fixed].grid.ndim + 1)
            matrix[:-1, -1] = self[moving].mass - self[fixed].mass
            return Affine(matrix)
        if self.options.align != "affine":
            return alignment(self[fixed].prepared, self[moving].prepared, self.options)

        def register() -> tuple[dict[str, torch.Tensor], dict]:
            found = alignment(self[fixed].prepared, self[moving].prepared, self.options)
            return {"matrix": torch.from_numpy(found.matrix.copy())}, {"fixed": fixed.name, "moving": moving.name}

        path = self.folder / "alignments" / f"{key(FORMAT, self._keys[fixed], self._keys[moving])}.safetensors"
        return Affine(load_or_make(path, register)[0]["matrix"].numpy())

    def identity(self, case: Case) -> str:
        """What changes when the prepared scan does: a part of the names of files that follow from it."""
        return self._keys[case]

    def _key(self, case: Case) -> str:
        options = asdict(self.options)
        for name in ("shape", "center"):  # they say what the network sees of a prepared scan
            options.pop(name)
        try:
            files = [None if path is None else fingerprint(path) for path in (case.image, case.label, case.mask)]
        except OSError as error:
            raise InputError(f"case {case.name}: {error.filename}: {error.strerror}; mend the manifest") from None
        return key(FORMAT, files, options, self.label_scale)

    def _path(self, case: Case) -> Path:
        return self.folder / "scans" / f"{self._keys[case]}.safetensors"

    def _load(self, case: Case) -> PreparedCase:
        tensors, notes = load_or_make(self._path(case), lambda: self._prepare(case))
        image, mass = tensors["image"], tensors.get("mass")
        return PreparedCase(
            case=case,
            source=Grid(notes["source"], tensors["source"].numpy()),
            grid=Grid(image.shape[2:], tensors["affine"].numpy()),
            image=image,
            maps=tensors.get("maps"),
            channels=tuple(notes["channels"]),
            fine=tensors.get("fine"),
            values=tuple(notes["values"]),
            lowest=notes["lowest"],
            mass=None if mass is None else mass.numpy(),
        )

    def _prepare(self, case: Case) -> tuple[dict[str, torch.Tensor], dict]:
        scan, labels, mask = read_scan(case), read_labels(case), read_mask(case)
        for other in (labels, mask):
            if other is not None and other.ndim != scan.ndim:
                raise InputError(f"{other.name}: is {other.ndim}-D but its scan is {scan.ndim}-D; give one of the same dimension")
        coarse = labels if self.label_scale == 1 else None
        prepared = prepare(scan, coarse, self.options)
        grid = prepared.image.grid
        affines = {"affine": grid.affine, "source": scan.grid.affine}
        tensors = {name: torch.from_numpy(affine.copy()) for name, affine in affines.items()}
        tensors["image"] = torch.from_numpy(prepared.image.data)[None, None]
        maps = {} if prepared.labels is None else {"labels": prepared.labels.data}
        values = prepared.labels
        if labels is not None and coarse is None:
            values = resample(labels, grid.with_shape([self.label_scale * n for n in grid.shape]), labels=True)
            tensors["fine"] = torch.from_numpy(values.data.astype(smallest_integer(values.data)))[None, None]
        if mask is not None:
            maps["mask"] = (resample(mask, grid, labels="majority").data != 0).astype(np.uint8)
        if maps:
            dtype = np.result_type(*(smallest_integer(data) for data in maps.values()))
            tensors["maps"] = torch.from_numpy(np.stack([data.astype(dtype) for data in maps.values()]))[None]
        if self.options.align == "masses":
            tensors["mass"] = torch.from_numpy(mass_center(Scan(prepared.image, None)))
        notes = {"channels": list(maps), "values": [], "lowest": 0, "name": case.name, "source": scan.grid.shape}
        if values is not None:
            notes |= {"values": wanted_labels(values.data, None), "lowest": int(values.data.min())}
        return tensors, notes


def read_scan(case: Case) -> Image:
    """The case's scan. Raises InputError, naming the case, where it cannot be read or registered."""
    name = f"case {case.name}"
    scan = read_image(case.image, name=name)
    check_scan(scan, name)
    return scan


def read_labels(case: Case) -> Image | None:
    """The case's label map, the smallest integers that hold it. Raises InputError for fractions."""
    return _read_integers(case, case.label, "labels")


def read_mask(case: Case) -> Image | None:
    """The case's mask: not 0 is inside."""
    return _read_integers(case, case.mask, "mask")


def read_landmarks(case: Case) -> Points | None:
    """The case's landmarks, in the world."""
    if case.landmarks is None:
        return None
    needs_grid = case.landmarks.suffix.lower() in (".txt", ".pts")
    try:
        return read_points(case.landmarks, read_image(case.image, name=f"case {case.name}").grid if needs_grid else None)
    except InputError as error:
        raise InputError(f"case {case.name}, landmarks: {error}") from None


def _read_integers(case: Case, path: Path | None, what: str) -> Image | None:
    if path is None:
        return None
    image = read_image(path, name=f"case {case.name}, {what}")
    data = image.data
    if data.dtype.kind == "f":
        whole = data.astype(np.int64)
        if not (whole == data).all():
            raise InputError(f"{image.name}: {path} holds fractions; give a map of whole numbers")
        data = whole
    elif data.dtype.kind == "b":
        data = data.view(np.uint8)
    return replace(image, data=data.astype(smallest_integer(data), copy=False))


def smallest_integer(values: np.ndarray) -> np.dtype:
    """Of uint8, int16 and int32 the smallest that holds all values, a dtype that torch's indexing and the ops know."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    for dtype in (np.uint8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    raise InputError(f"label values from {low} to {high} are more than int32 holds; renumber them")
