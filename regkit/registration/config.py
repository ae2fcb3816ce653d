"""What a registration does, as frozen dataclasses: the one source of the options of the library, the command line and --config files.

Lengths are in voxels of the working grid (see prepare.py) unless a name says mm, so that one preset serves images of any size. Sequences
hold one value per resolution level, coarse to fine.
"""

from dataclasses import dataclass, replace
from typing import Literal

from regkit.errors import UsageError


@dataclass(frozen=True)
class Intensity:
    """How grey values become numbers between 0 and 1."""

    window: tuple[float, float] | None = None
    """Fixed limits (Hounsfield units of CT); else the percentiles below, of what is not background."""
    percentiles: tuple[float, float] = (0.5, 99.5)


@dataclass(frozen=True)
class AffineStage:
    """Initial alignment: the best of several starts, then 12 parameters (6 in 2-D) by Adam, coarse to fine, on local NCC; where refinement
    takes MIND, on normalised mutual information."""

    enabled: bool = True
    """Off: only the best start (header, centres, mass centres) is taken."""
    starts: Literal["header", "all"] = "all"
    """header: trust the files' positions. all: also centres and mass centres, each with small rotations and scales."""
    voxels: tuple[int, ...] = (10_000, 60_000)
    """Size of the grid at each level."""
    iterations: tuple[int, ...] = (40, 30)
    window: int = 7
    step: float = 0.02


@dataclass(frozen=True)
class EmbeddingStage:
    """Displacement embedding (Hansen & Heinrich 2020): large motion from keypoints, cost volumes, PCA, graph diffusion and soft-min."""

    enabled: bool = True
    keypoints: int = 1500
    spread: int = 3
    """Non-maximum suppression of keypoints: window in voxels."""
    stride: int = 2
    """Features and displacements are on every stride-th voxel."""
    search_radius: int = 10
    """10: 21^3 displacements of `stride` voxels."""
    patch_radius: int = 2
    features: str = "mind"
    """What is compared: mind (MIND-SSC), learned (a network's that has learned to predict it), or a weights file of such a network."""
    mind_radius: int = 1
    mind_dilation: int = 1
    dimensions: int = 256
    """Of the PCA embedding; 0: none, cost volumes are diffused and decoded as they are."""
    basis: str | None = None
    """A file with directions that were fitted over many pairs (regkit.registration.basis); by default they are fitted on this pair."""
    neighbours: int = 7
    """Of each keypoint in the graph."""
    diffusion: float = 0.5
    """Weight of the graph Laplacian: (I + diffusion L)^-1."""
    sharpness: float | None = None
    """Soft-min: softmax(-sharpness * cost); by default 20 of MIND and 60 of learned features, which differ less from each other."""
    densify: Literal["tps", "splat"] = "splat"
    smoothing: float = 0.1
    """Of the thin-plate spline."""


@dataclass(frozen=True)
class RefineStage:
    """Instance optimisation of a dense field, coarse to fine: by Adam, or by diffeomorphic Demons, a baseline."""

    method: Literal["adam", "demons"] = "adam"
    """demons compares intensities (the same contrast in both scans) and takes of what follows shrink, iterations, step and smoothing."""
    similarity: Literal["lncc", "mind"] = "lncc"
    shrink: tuple[float, ...] = (4.0, 2.0, 1.0)
    """Voxel size of each level over the working grid's."""
    iterations: tuple[int, ...] = (40, 50, 50)
    window: tuple[int, ...] = (9, 7, 5)
    """Of local NCC, odd."""
    smoothness: tuple[float, ...] = (1.0, 1.0, 0.5)
    """Weight of the diffusion energy."""
    step: tuple[float, ...] = (0.4, 0.4, 0.4)
    """Adam's step in voxels of the level; of demons, twice the longest update."""
    smoothing: int = 3
    """Binomial filters between the optimiser's parameters and the field; of demons, over the displacement after every update."""
    noise: float = 0.01
    """Contrast (of intensities in 0..1) below which a window counts as flat."""
    diffeomorphic: bool = False
    """Optimise a stationary velocity field; the displacement is its exponential."""
    remove_folds: bool = True
    """Smooth the field where it folds, until it doesn't."""

    def off(self) -> "RefineStage":
        """The stage without a level, which leaves the field before it as it is, its folds too."""
        levels = dict.fromkeys(("shrink", "iterations", "window", "smoothness", "step"), ())
        return replace(self, **levels, remove_folds=False)


@dataclass(frozen=True)
class ModelStage:
    """A trained network in place of the displacement embedding. Its model card says how it wants the scans: grey values, voxel size, and
    their initial alignment."""

    source: str | None = None
    """A weights file, or the name of one of regkit's own (`regkit models`); none: no network."""
    align: Literal["header", "centres", "masses", "affine"] | None = None
    """Alignment before the network, by default as the card says; affine is the affine stage above."""
    smoothness: float | None = None
    """0 (free) to 1 (stiff), for networks that leave the choice; by default the network's own."""
    refine: bool = False
    """Let the refinement stage start from the network's field; else it is kept as it is."""
    remove_folds: bool = False
    """Smooth the network's field where it folds. Where refinement follows, refine.remove_folds decides."""

    def __post_init__(self):
        if self.smoothness is not None and not 0 <= self.smoothness <= 1:
            raise UsageError(f"smoothness must be between 0 and 1, but is {self.smoothness}")


@dataclass(frozen=True)
class Config:
    """A registration's options; `PRESETS` holds the named ones."""

    preset: str = "generic"
    """The name this started from."""
    spacing_mm: float | None = None
    """Voxel size of the working grid; by default the geometric mean of the fixed scan's."""
    max_voxels: int = 8_000_000
    """The working grid is made coarser where it would have more."""
    margin: int = 8
    """Kept around the foreground or mask, in working voxels."""
    use_masks: Literal["weight", "start"] = "weight"
    """weight: only the masks' voxels count. start: masks are used for the start and the region only."""
    intensity: Intensity = Intensity()
    affine: AffineStage = AffineStage()
    embedding: EmbeddingStage = EmbeddingStage()
    refine: RefineStage = RefineStage()
    model: ModelStage = ModelStage()

    def __post_init__(self):
        levels = {name: len(getattr(self.refine, name)) for name in ("shrink", "iterations", "window", "smoothness", "step")}
        if len(set(levels.values())) > 1:
            raise UsageError("refine: " + ", ".join(f"{n} has {k}" for n, k in levels.items()) + " levels; give each the same number")
        if len(self.affine.voxels) != len(self.affine.iterations):
            raise UsageError(
                f"affine: voxels has {len(self.affine.voxels)} levels and iterations {len(self.affine.iterations)}; "
                "give both the same number"
            )
        if any(w < 1 or w % 2 == 0 for w in (*self.refine.window, self.affine.window)):
            raise UsageError(f"windows must be odd: refine.window is {self.refine.window}, affine.window {self.affine.window}")
        if self.refine.method == "demons" and (self.refine.diffeomorphic or self.refine.similarity == "mind"):
            raise UsageError(
                "refine.method demons compares intensities and is diffeomorphic by itself; leave similarity and diffeomorphic out"
            )
        if self.embedding.dimensions < 0:
            raise UsageError(f"embedding.dimensions must be at least 0, but is {self.embedding.dimensions}")
        if min(self.refine.shrink, default=1) < 1:
            raise UsageError(f"refine.shrink must be at least 1, but is {self.refine.shrink}")


def with_model(config: Config, model: str | None = None, refine: bool | None = None, smoothness: float | None = None) -> Config:
    """`config` with what is given of the network's stage in place of its own; None leaves a field as it is.

    Raises UsageError for options of a network without a network.
    """
    given = {name: value for name, value in (("source", model), ("refine", refine), ("smoothness", smoothness)) if value is not None}
    config = replace(config, model=replace(config.model, **given))
    idle = {*given, *(name for name, value in vars(config.model).items() if value != getattr(ModelStage, name))}
    if config.model.source is None and idle:
        raise UsageError(f"options of a network without one: {', '.join(sorted(idle))}; name a model too (see regkit models)")
    return config


_NO_EMBEDDING = EmbeddingStage(enabled=False)

_BRAIN = RefineStage(smoothing=2, iterations=(60, 80, 40), window=(5, 5, 5), smoothness=(1.0, 1.0, 0.5), step=(0.4, 0.2, 0.2))
_LUNG = RefineStage(smoothing=2, iterations=(60, 80, 40), window=(5, 5, 5), smoothness=(6.0, 6.0, 6.0), step=(0.4, 0.2, 0.2))
_DEMONS = RefineStage(method="demons", iterations=(80, 60, 40), step=(2.0, 2.0, 2.0), smoothing=4)
_XRAY = RefineStage(smoothing=2, shrink=(8.0, 4.0, 2.0), iterations=(40, 40, 40), window=(9, 9, 9), smoothness=(1.0, 1.0, 1.0))
_MULTIMODAL = RefineStage(similarity="mind", iterations=(80, 80, 60), smoothness=(0.5, 0.5, 0.5))

PRESETS: dict[str, Config] = {
    name: replace(config, preset=name)
    for name, config in {
        "generic": Config(),
        # Lungs slide along the ribs: masks say where to look, but what surrounds the lungs helps to align their edges.
        "ct-lung": Config(intensity=Intensity(window=(-1000.0, 400.0)), use_masks="start", refine=_LUNG),
        "ct-abdomen": Config(intensity=Intensity(window=(-200.0, 300.0))),
        "mr-brain": Config(embedding=_NO_EMBEDDING, refine=_BRAIN),
        "demons": Config(embedding=_NO_EMBEDDING, refine=_DEMONS),
        "xray": Config(embedding=_NO_EMBEDDING, affine=AffineStage(voxels=(1000, 4000), window=9), refine=_XRAY),
        "multimodal": Config(max_voxels=2_000_000, refine=_MULTIMODAL),  # MIND holds 12 channels
    }.items()
}
