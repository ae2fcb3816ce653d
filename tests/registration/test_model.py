"""A trained network in the pipeline: its field becomes the transform that it meant, whatever the grids; and what may go wrong is told.

Most networks here are told their answer, so that what is tested is all that surrounds a network.
"""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from regkit import ops
from regkit.cli import main
from regkit.errors import InputError, UsageError
from regkit.geometry import Affine, DisplacementField, Grid, Image, read_image, resample, total_displacement, write_image
from regkit.models import ConditionalLapIRN, LabelAutoencoder, LapIRN, SegmentationUNet, networks, weights
from regkit.models.input import NetworkInput
from regkit.models.weights import Card, save_model
from regkit.registration import Config, ModelStage, RefineStage, Result, register
from regkit.registration.toml import override, read_toml, to_toml
from tests.registration.anatomy import Pair, affine_about, grid_at, make_pair, wave

QUICK = Config(refine=RefineStage(shrink=(2.0, 1.0), iterations=(15, 15), window=(7, 5), smoothness=(1.0, 0.5), step=(0.4, 0.3)))


class Told(torch.nn.Module):
    """Gives the displacement that the test wants, and keeps what it was given."""

    multiple = 4
    answer = None  # (1, D, *frame), or a function of the frame's shape
    given = None

    def __init__(self, dims: int = 3):
        super().__init__()
        self.dims, self.weight = dims, torch.nn.Parameter(torch.zeros(1))

    def forward(self, fixed, moving):
        Told.given = {"fixed": fixed, "moving": moving}
        return Told.answer(fixed.shape[2:]) if callable(Told.answer) else Told.answer


@pytest.fixture(autouse=True)
def more_networks(monkeypatch):
    monkeypatch.setattr(Told, "answer", None)
    monkeypatch.setattr(networks, "NETWORKS", networks.NETWORKS | {"told": Told})
    monkeypatch.setattr(weights, "NETWORKS", networks.NETWORKS)


@pytest.fixture
def told(tmp_path):
    """Writes the weights of a network and says where."""

    def write(network=None, name: str = "told", **card):
        network = network or Told()
        card = {"network": name, "options": {"dims": network.dims}} | card
        return save_model(tmp_path / "weights.safetensors", network, Card(**card))

    return write


def frame_about(fixed: Grid, shape, spacing: float) -> Grid:
    """The frame of a network: around the fixed scan's centre, along its axes."""
    affine = fixed.affine.copy()
    affine[:-1, :-1] = fixed.directions * spacing
    affine[:-1, -1] = fixed.center - affine[:-1, :-1] @ ((np.asarray(shape) - 1) / 2)
    return Grid(tuple(shape), affine)


def flipped(image: Image, axis: int) -> Image:
    """The same scan with one axis stored backwards."""
    affine = image.grid.affine.copy()
    affine[:-1, -1] += affine[:-1, axis] * (image.grid.shape[axis] - 1)
    affine[:-1, axis] *= -1
    return Image(np.ascontiguousarray(np.flip(image.data, axis)), Grid(image.grid.shape, affine), image.name)


def correlation(a, b) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def consistency(result: Result, points: np.ndarray) -> float:
    return float(np.linalg.norm(result.inverse.apply(result.transform.apply(points)) - points, axis=1).max())


@pytest.mark.parametrize("flips", [(None, None), (0, 2), (2, 1)])
def test_what_the_network_means_is_what_comes_out(oblique_pair, told, flips):
    """Oblique scans on two grids, one flipped; a frame of its own voxel size; a start that is not the identity."""
    fixed, moving = (
        image if axis is None else flipped(image, axis) for image, axis in zip((oblique_pair.fixed, oblique_pair.moving), flips)
    )
    frame = frame_about(fixed.grid, (40, 32, 40), 2.5)
    start = Affine(np.block([[np.eye(3), (moving.grid.center - fixed.grid.center)[:, None]], [np.zeros(3), 1]]))
    Told.answer = total_displacement(start.inverse() @ oblique_pair.truth, frame, frame)
    path = told(input=NetworkInput(spacing_mm=2.5, shape=frame.shape, align="centres"))
    result = register(fixed, moving, model=path)
    # the transform is the truth, the network saw two scans that its answer aligns, and the moved scan is the fixed one
    points = oblique_pair.points(share=0.5)
    assert np.linalg.norm(result.transform.apply(points) - oblique_pair.truth.apply(points), axis=1).max() < 0.05
    seen = Told.given
    assert all(
        image.dtype == torch.float32 and image.shape[2:] == frame.shape and 0 <= image.min() < image.max() <= 1 for image in seen.values()
    )
    assert correlation(ops.warp(seen["moving"], Told.answer), seen["fixed"]) > 0.98 > 0.9 > correlation(seen["moving"], seen["fixed"])
    assert correlation(result.moved.data, fixed.data) > 0.97 and result.moved.grid == fixed.grid
    assert consistency(result, points) < 0.1
    labels = result.warp(Image((moving.data > 300).astype(np.int16) * 7, moving.grid))
    assert set(np.unique(labels.data)) == {0, 7} and ((labels.data > 0) == (fixed.data > 300)).mean() > 0.97
    metrics = result.record.metrics
    assert metrics["similarity_after"] > metrics["similarity_affine"] + 0.1 and metrics["jacobian"]["folds"] == 0
    assert set(result.record.seconds) == {"read", "prepare", "affine", "network", "invert", "measure", "total"}


def test_a_frame_smaller_than_the_scan(told):
    """Coarse voxels, the middle of the scan only: known there, faded out far from it, and said."""
    grid = grid_at((48, 40, 44), 2.0)
    pair = make_pair(grid, grid, Affine.identity(3))
    shift = torch.tensor([1.0, -0.5, 0.25])
    Told.answer = lambda shape: shift.reshape(1, 3, 1, 1, 1).expand(1, 3, *shape).clone()
    result = register(pair.fixed, pair.moving, model=told(input=NetworkInput(spacing_mm=4.0, shape=(12, 8, 12))))
    inside = np.array([[0.0, 0, 0], [20, -14, 20], [-22, 10, 3]])
    np.testing.assert_allclose(result.transform.apply(inside) - inside, np.tile(4 * shift.numpy(), (3, 1)), atol=1e-4)
    far = np.array([[46.0, 0, 0], [0, 0, -42]])
    np.testing.assert_allclose(result.transform.apply(far), far, atol=1e-6)
    (warning,) = result.record.warnings
    assert "does not see" in warning and "12 x 8 x 12 of 4 mm" in warning and 10 < float(warning.split(" %")[0].split()[-1]) < 90
    assert consistency(result, pair.points()) < 0.3  # of 4 mm voxels: the inverse lies on the frame too


def test_padding_and_voxels_that_are_no_cubes(told):
    """The scan's own voxels, padded to the network's multiple: no warning, and an axis's displacement counts in its own voxels."""
    pair = make_pair(grid_at((18, 22, 26), (4.0, 3.0, 5.0), (20, 10, -30)), grid_at((20, 20, 20), 4.0), Affine.identity(3))
    shift = np.array([0.5, -1.0, 0.25])
    Told.answer = lambda shape: torch.tensor(shift, dtype=torch.float32).reshape(1, 3, 1, 1, 1).repeat(1, 1, *shape)
    result = register(pair.fixed, pair.moving, model=told())
    assert Told.given["fixed"].shape[2:] == (20, 24, 28) and not result.record.warnings
    points = pair.points(share=0.5)
    wanted = pair.fixed.grid.to_world(pair.fixed.grid.to_index(points) + shift)
    np.testing.assert_allclose(result.transform.apply(points), wanted, atol=1e-4)
    by_hand = resample(
        pair.moving, pair.fixed.grid, Affine(np.block([[np.eye(3), (wanted - points)[:1].T], [np.zeros(3), 1]])), labels=False
    )
    inside = (slice(3, -3),) * 3
    np.testing.assert_allclose(result.moved.data[inside], by_hand.data[inside], atol=0.05)


@pytest.fixture(scope="module")
def small() -> Pair:
    grid = grid_at((32, 28, 30), 2.8)
    return make_pair(grid, grid_at((30, 30, 30), 2.8), wave(grid, 3.0))


def test_refinement_starts_from_the_network(small, told):
    """Most of the truth from the network, on a frame unlike the working grid; refinement finds the rest, and would not from nothing."""
    frame = frame_about(small.fixed.grid, (24, 20, 24), 3.7)
    Told.answer = 0.7 * total_displacement(small.truth, frame, frame)
    path = told(input=NetworkInput(spacing_mm=3.7, shape=frame.shape))
    kept = register(small.fixed, small.moving, config=QUICK, model=path)
    refined = register(small.fixed, small.moving, config=QUICK, model=path, refine=True)
    assert (
        refined.config.model == ModelStage(str(path), refine=True)
        and "refine" in refined.record.seconds
        and "embedding" not in refined.record.seconds
    )
    assert refined.record.metrics["similarity_after"] > kept.record.metrics["similarity_after"] + 0.02
    assert small.error(refined.transform) < 0.75 * small.error(kept.transform) < 0.5 * small.start
    still = replace(QUICK, refine=replace(QUICK.refine, iterations=(0, 0), smoothing=0))
    unmoved = register(small.fixed, small.moving, config=still, model=path, refine=True)
    assert np.linalg.norm(unmoved.transform.apply(small.points()) - kept.transform.apply(small.points()), axis=1).max() < 0.35


def test_the_affine_before_a_network_is_the_pipelines(told):
    grid = grid_at((30, 28, 26), 3.2)
    pair = make_pair(grid, grid_at((28, 30, 28), 3.2), affine_about((4, -3, 5), 1.0, (5.0, 4.0, -6.0)))
    Told.answer = lambda shape: torch.zeros(1, 3, *shape)
    config = replace(QUICK, affine=replace(QUICK.affine, starts="header"))
    result = register(pair.fixed, pair.moving, config=config, model=told(input=NetworkInput(align="affine")))
    assert pair.error(result.transform) < 1.0 and "start: header" in result.record.notes and "affine, level 2" in result.record.curves
    plain = register(pair.fixed, pair.moving, config=config, model=told())
    assert pair.error(plain.transform) == pytest.approx(pair.start) and not plain.record.curves
    overridden = register(pair.fixed, pair.moving, config=replace(config, model=ModelStage(str(told()), align="masses")))
    assert pair.error(overridden.transform) < 0.6 * pair.start


def test_folds_are_kept_and_said_unless_unwanted(small, told):
    Told.answer = lambda shape: 3 * torch.sin(torch.arange(shape[0]) * 0.8).reshape(1, 1, -1, 1, 1) * torch.ones(1, 3, *shape)
    config = replace(QUICK, model=ModelStage(str(told())))
    kept = register(small.fixed, small.moving, config=config)
    assert kept.record.metrics["jacobian"]["folds"] > 0.01 and any("folded" in warning for warning in kept.record.warnings)
    clean = register(small.fixed, small.moving, config=replace(config, model=replace(config.model, remove_folds=True)))
    assert clean.record.metrics["jacobian"]["folds"] == 0 and not clean.record.warnings


def test_in_two_dimensions_and_with_a_choice_of_smoothness(pair2d, told):
    torch.manual_seed(0)
    options = {"levels": 2, "start_channels": 1, "dims": 2}
    path = told(ConditionalLapIRN(**options), "conditional-lapirn", options=options, input=NetworkInput(shape=(96, 80)))
    points = pair2d.points()
    default, *chosen = (register(pair2d.fixed, pair2d.moving, model=path, smoothness=value) for value in (None, 0.0, 0.5, 1.0))
    found = [result.transform.apply(points) for result in chosen]
    np.testing.assert_array_equal(found[1], default.transform.apply(points))
    assert min(np.abs(a - b).max() for a, b in combinations(found, 2)) > 0.01
    assert chosen[0].config.model.smoothness == 0.0 and default.config.model.smoothness is None


@pytest.mark.parametrize("stage", [ModelStage(), ModelStage("hippocampus", "masses", 0.25, True, True)])
def test_toml_round_trip(tmp_path, stage):
    (tmp_path / "config.toml").write_text(to_toml(Config(model=stage)))
    assert override(Config(), read_toml(tmp_path / "config.toml")) == Config(model=stage)


@pytest.fixture(scope="module")
def lapirn_run(small, tmp_path_factory):
    """What the command line makes of a tiny LapIRN: (the OUT directory, the folder of scans and weights)."""
    folder = tmp_path_factory.mktemp("lapirn")
    torch.manual_seed(0)
    network = LapIRN(levels=2, start_channels=1, range_flow=0.05)
    facts = {"name": "tiny", "data": "made <anatomies>", "licence": "CC0", "metrics": {"validation": {"dice": 0.8125}}}
    save_model(folder / "tiny.safetensors", network, Card("lapirn", {"levels": 2, "start_channels": 1, "range_flow": 0.05}, **facts))
    for name in ("fixed", "moving"):
        write_image(getattr(small, name), folder / f"{name}.nii.gz")
    arguments = (
        "-f",
        folder / "fixed.nii.gz",
        "-m",
        folder / "moving.nii.gz",
        "-o",
        folder / "out",
        "--model",
        folder / "tiny.safetensors",
    )
    assert main(["register", *map(str, arguments), "--preset", "mr-brain", "--quiet"]) == 0
    return folder / "out", folder


def test_a_lapirn_from_the_command_line(lapirn_run, tmp_path):
    out, folder = lapirn_run
    assert {file.name for file in out.iterdir()} == {"moved.nii.gz", "xfm.h5", "xfm_inverse.h5", "report.html", "run.json"}
    info = json.loads((out / "run.json").read_text())
    assert info["config"]["model"]["source"] == str(folder / "tiny.safetensors") and info["preset"] == "mr-brain"
    assert info["model"]["name"] == "tiny" and len(info["model"]["sha256"]) == 64 and info["seconds"]["network"] > 0
    card = info["model"]["card"]
    assert (card["licence"], card["data"], card["metrics"]) == ("CC0", "made <anatomies>", {"validation": {"dice": 0.8125}})
    assert 0.05 < info["metrics"]["deformation_mm"]["max"]
    page = (out / "report.html").read_text()
    assert all(
        text in page for text in ("model tiny", "made &lt;anatomies&gt;", "CC0", "validation.dice", "0.8125", info["model"]["sha256"][:12])
    )
    assert main(["apply", str(out), str(folder / "moving.nii.gz"), "-o", str(tmp_path), "--quiet"]) == 0
    np.testing.assert_allclose(read_image(tmp_path / "moving.nii.gz").data, read_image(out / "moved.nii.gz").data, atol=0.05)


def test_the_configuration_of_a_run_repeats_it(lapirn_run, capsys, tmp_path):
    _, folder = lapirn_run
    assert main(["register", "--model", str(folder / "tiny.safetensors"), "--refine", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert "[model]" in printed and "refine = true" in printed
    (tmp_path / "run.toml").write_text(printed)
    assert main(["register", "--config", str(tmp_path / "run.toml"), "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    assert main(["register", "--config", str(tmp_path / "run.toml"), "--no-refine", "--print-config"]) == 0
    assert capsys.readouterr().out == printed.replace("refine = true", "refine = false")


def test_the_lapirn_is_the_one_that_was_saved(small, lapirn_run):
    """The pipeline's displacement is the network's own on what it is given: here the scans as they are, padded to multiples of 4."""
    torch.manual_seed(0)
    network = LapIRN(levels=2, start_channels=1, range_flow=0.05)
    _, folder = lapirn_run
    result, again = (register(small.fixed, small.fixed, model=folder / "tiny.safetensors") for _ in range(2))
    np.testing.assert_array_equal(result.moved.data, again.moved.data)
    low, high = small.fixed.data.min(), small.fixed.data.max()
    image = torch.zeros(1, 1, 32, 28, 32)
    image[..., 1:31] = torch.from_numpy((small.fixed.data - low) / (high - low))
    with torch.no_grad():
        displacement = network(image, image)[0].numpy()
    wanted = DisplacementField.from_voxels(displacement, frame_about(small.fixed.grid, (32, 28, 32), 2.8))
    points = small.points(share=0.5)
    np.testing.assert_allclose(result.transform.apply(points), wanted.apply(points), atol=2e-3)


BAD = [
    ({"model": "hippocampos"}, UsageError, "no model hippocampos"),
    ({"refine": True}, UsageError, "options of a network without one: refine"),
    ({"refine": False, "smoothness": 0.0}, UsageError, "refine, smoothness; name a model"),
    ({"model": "weights", "smoothness": 0.5}, UsageError, "takes no other; leave smoothness out"),
    ({"model": "weights", "smoothness": 1.5}, UsageError, "smoothness must be between 0 and 1, but is 1.5"),
    (
        {"model": "segments"},
        UsageError,
        "(segmentation-unet) does not register: it takes image and gives no displacement; give weights of",
    ),
    ({"model": "encodes", "smoothness": 0.5}, UsageError, "(label-autoencoder) does not register: it takes labels"),
    ({"model": "flat"}, UsageError, "is for 2-D scans, and these are 3-D"),
    ({"model": "text"}, InputError, "is not a weights file"),
]


@pytest.mark.parametrize(("options", "kind", "text"), BAD, ids=[text for *_, text in BAD])
def test_mistakes_are_one_line(small, told, tmp_path, capsys, options, kind, text):
    Told.answer = lambda shape: torch.zeros(1, 3, *shape)
    (tmp_path / "text.safetensors").write_text("no weights")
    paths = {
        "weights": told,
        "flat": lambda: told(Told(dims=2)),
        "text": lambda: tmp_path / "text.safetensors",
        "segments": lambda: told(SegmentationUNet(channels=1), "segmentation-unet", options={"channels": 1}),
        "encodes": lambda: told(LabelAutoencoder(size=16), "label-autoencoder", options={"size": 16}),
    }
    options = dict(options)
    if options.get("model") in paths:
        options["model"] = paths[options["model"]]()
    with pytest.raises(kind) as caught:
        register(small.fixed, small.moving, **options)
    assert text in str(caught.value) and "\n" not in str(caught.value)
    files = []
    for name in ("fixed", "moving"):
        write_image(getattr(small, name), tmp_path / f"{name}.nii.gz")
        files += [f"--{name}", str(tmp_path / f"{name}.nii.gz")]
    flags = {True: ["--refine"], False: ["--no-refine"]}.get(options.pop("refine", None), [])
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert main(["register", *files, "-o", str(tmp_path / "out"), *given, *flags, "--quiet"]) == kind.exit_code
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_contradictory_flags_and_models_in_memory(small, capsys):
    assert main(["register", "--model", "x", "--refine", "--no-refine", "--print-config"]) == 2
    assert "contradict" in capsys.readouterr().err
    with pytest.raises(UsageError, match="came as LapIRN"):
        register(small.fixed, small.moving, model=LapIRN(levels=1, start_channels=1))
    with pytest.raises(UsageError, match="without one: align"):
        register(small.fixed, small.moving, config=Config(model=ModelStage(align="masses")))


def test_a_network_that_sees_nothing_or_gives_nan(small, told):
    Told.answer = lambda shape: torch.full((1, 3, *shape), float("nan"))
    with pytest.raises(InputError, match="NaN or infinity"):
        register(small.fixed, small.moving, model=told())
    away = Image(
        small.moving.data, Grid(small.moving.grid.shape, affine_about((0, 0, 0), 1.0, (900.0, 0, 0)).matrix @ small.moving.grid.affine)
    )
    with pytest.raises(InputError, match=r'moving: nothing of it lies in the frame .* model.align = "masses"'):
        register(small.fixed, away, model=told())
    Told.answer = lambda shape: torch.zeros(1, 3, *shape)
    assert (
        register(small.fixed, away, config=Config(model=ModelStage(str(told()), align="masses"))).record.metrics["similarity_after"] > 0.2
    )


def refuse(shape):
    raise ValueError("too small")


def test_models_are_listed(told, monkeypatch, capsys):
    monkeypatch.setattr(weights, "shipped", dict)
    assert main(["models"]) == 0
    assert "no trained networks come with this regkit" in capsys.readouterr().out
    path = told(
        description="a stub", data="none", licence="CC0", metrics={"dice": 0.5}, training={"steps": 12}, input=NetworkInput(align="masses")
    )
    monkeypatch.setattr(weights, "shipped", lambda: {"stub": path})
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    assert (
        listed.startswith("stub (0.0 MB)")
        and all(text in listed for text in ("told", "a stub", "CC0", "dice 0.5"))
        and "steps" not in listed
    )
    assert main(["models", "stub"]) == 0
    whole = capsys.readouterr().out
    assert all(text in whole for text in ("sha256", "training.steps", "input.align", "masses", "options.dims", "CC0", str(path)))
    assert main(["models", "nothing"]) == 2
    assert "no model nothing" in capsys.readouterr().err


def test_a_model_that_does_not_register_is_listed_too(told, monkeypatch, capsys):
    path = told(LabelAutoencoder(size=16), "label-autoencoder", options={"size": 16})
    monkeypatch.setattr(weights, "shipped", lambda: {"lungs": path})
    for command in (["models"], ["models", "lungs"], ["models", str(path)]):
        assert main(command) == 0
        shown = capsys.readouterr().out
        assert "label-autoencoder" in shown and "takes labels; does not register" in shown
