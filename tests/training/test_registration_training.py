"""LapIRN's and VoxelMorph's trainings: their losses, and `regkit train` from a manifest to weights."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from regkit import cli
from regkit.data.config import DataConfig, datasets
from regkit.data.manifest import read_manifest
from regkit.geometry import Image
from regkit.models.input import NetworkInput
from regkit.models.weights import load_model
from regkit.training.lapirn import LapIRNLoss, LapIRNNetwork, LapIRNTask, LapIRNTraining
from regkit.training.trainings import TRAININGS

SHAPE = (24, 32)
SMALL = """
steps = [3, 3]
freeze = 1
[network]
levels = 2
start_channels = 1
dims = 2
[loss]
windows = [5, 3]
[data.input]
shape = [24, 32]
[loop]
learning_rate = 0.01
validate_every = 3
save_every = 2
log_every = 1
"""


def ellipse(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of a bright ellipse with a texture of its own, and its label map."""
    random = np.random.default_rng(seed)
    i, j = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    center, radii = 0.5 * np.array(SHAPE) + random.uniform(-3, 3, 2), random.uniform(5, 9, 2)
    labels = (((i - center[0]) / radii[0]) ** 2 + ((j - center[1]) / radii[1]) ** 2 < 1).astype(np.uint8)
    return (labels + 0.1 * random.standard_normal(SHAPE) + 0.3 * np.sin(i / 4)).astype(np.float32), labels


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ellipses")
    lines = ["image,label,split"]
    for n in range(5):
        image, labels = ellipse(n)
        Image.from_array(image).save(folder / f"{n}.tif")
        Image.from_array(labels).save(folder / f"{n}_labels.png")
        lines.append(f"{n}.tif,{n}_labels.png,{'train' if n < 3 else 'validation'}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    (folder / "small.toml").write_text(SMALL)
    return folder / "pairs.csv"


def batch_of(data, count: int = 2) -> dict[str, torch.Tensor]:
    return {name: torch.stack([data.train[n][name] for n in range(count)]) for name in data.train[0]}


def task_of(manifest, tmp_path, *, scale: int = 1, **loss) -> tuple[LapIRNTask, dict[str, torch.Tensor]]:
    config = LapIRNTraining(
        network=LapIRNNetwork(start_channels=1, dims=2),
        loss=LapIRNLoss(**loss),
        data=DataConfig(input=NetworkInput(shape=SHAPE), label_scale=scale),
    )
    data = datasets(read_manifest(manifest), config.data, multiple=8, cache_dir=tmp_path)
    torch.manual_seed(0)
    return LapIRNTask(config, data), batch_of(data)


def correlation(a: torch.Tensor, b: torch.Tensor, window: int) -> torch.Tensor:
    """Mean squared local NCC by convolutions."""
    kernel = torch.ones(1, 1, window, window)
    s, n = (lambda x: F.conv2d(x, kernel, padding=window // 2)), window**2
    cross = s(a * b) - s(a) * s(b) / n
    return (cross**2 / ((s(a * a) - s(a) ** 2 / n).clamp_min(0) + 1e-5) / ((s(b * b) - s(b) ** 2 / n).clamp_min(0) + 1e-5)).mean()


def halve(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)


def sampled(x: torch.Tensor, u: torch.Tensor, padding: str) -> torch.Tensor:
    """x(p + u(p)) by grid_sample, u in voxels."""
    places = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in u.shape[2:]), indexing="ij")) + u
    unit = [2 * places[:, d] / (n - 1) - 1 for d, n in reversed(list(enumerate(x.shape[2:])))]
    return F.grid_sample(x, torch.stack(unit, -1), padding_mode=padding, align_corners=True)


def overlap(fixed: torch.Tensor, moving: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    a, b = (fixed == 1).float(), sampled((moving == 1).float(), u, "zeros")
    return ((2 * (a * b).sum((1, 2, 3)) + 1e-5) / (a.sum((1, 2, 3)) + b.sum((1, 2, 3)) + 1e-5)).mean()


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_lapirn_loss_is_the_papers(manifest, tmp_path, stage):
    task, batch = task_of(manifest, tmp_path, smoothness=0.7, folds=3.0, dice=2.0)
    for parameter in task.network.parameters():
        parameter.data *= 3  # fields of some voxels
    terms = task.loss(batch, stage)
    u = task.network.pyramid(batch["fixed"], batch["moving"], stage + 1)[-1].displacement
    fixed, moving, factor = batch["fixed"], batch["moving"], 4 >> stage
    for _ in range(2 - stage):
        fixed, moving = halve(fixed), halve(moving)
    warped, similarity = sampled(moving, u, "border"), 0.0
    for n, window in enumerate((7, 5, 3)[2 - stage :]):
        similarity = similarity - correlation(warped, fixed, window) / 2**n
        fixed, warped = halve(fixed), halve(warped)
    assert terms["similarity"].item() == pytest.approx(similarity.item(), rel=1e-3)
    gradient = 0.5 * sum((2 * u).diff(dim=d).square().mean() for d in (2, 3))
    assert terms["smoothness"].item() == pytest.approx(0.7 / 2 ** (2 - stage) * gradient.item(), rel=1e-4)
    maps = (batch[name][..., ::factor, ::factor] for name in ("fixed_labels", "moving_labels"))
    assert terms["dice"].item() == pytest.approx(2 * (1 - overlap(*maps, u).item()), rel=1e-4)
    assert terms["folds"].item() >= 0 and u.abs().max() > 0.3


def test_finer_labels_count_in_full_at_the_last_level(manifest, tmp_path):
    task, batch = task_of(manifest, tmp_path, scale=2)
    assert batch["fixed_labels"].shape[2:] == (48, 64)
    u = task.network(batch["fixed"], batch["moving"])
    fine = 2 * F.interpolate(u, scale_factor=2, mode="bilinear", align_corners=False)
    expected = 1 - overlap(batch["fixed_labels"], batch["moving_labels"], fine)
    assert task.loss(batch, 2)["dice"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert 0 <= task.loss(batch, 0)["dice"].item() <= 1


def test_levels_compare_equal_scans_as_equal(manifest, tmp_path):
    """Without motion nothing may differ at any level; with the authors' sampling it does, the more the fewer voxels there are."""
    found = {}
    for original in (False, True):
        task, batch = task_of(manifest, tmp_path, original=original)
        for parameter in task.network.parameters():
            parameter.data.zero_()
        same = {**batch, "moving": batch["fixed"], "moving_labels": batch["fixed_labels"]}
        found[original] = [task.loss(same, stage) for stage in range(3)]
    for terms, most in zip(found[False], (1.0, 1.5, 1.75)):
        assert terms["similarity"].item() == pytest.approx(-most, abs=0.02) and terms["dice"].item() == pytest.approx(0, abs=1e-5)
    assert found[True][0]["similarity"].item() > -0.9


def test_levels_rest_while_a_new_one_begins(manifest, tmp_path):
    task, _ = task_of(manifest, tmp_path)
    levels = [set(map(id, level.parameters())) for level in task.network.levels]
    assert set(map(id, task.trained(1))) == levels[0] | levels[1]
    assert set(map(id, task.frozen(1, 1999))) == levels[0] and not set(task.frozen(1, 2000)) and not set(task.frozen(0, 0))


def run(*arguments, capsys) -> tuple[int, str]:
    code = cli.main([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


def test_train_writes_weights_that_load(manifest, tmp_path, capsys):
    out = tmp_path / "run"
    code, told = run("train", "lapirn", "--data", manifest, "-o", out, "--config", manifest.with_name("small.toml"), capsys=capsys)
    assert code == 0, told
    network, card = load_model(out / "model.safetensors")
    assert network.multiple == 4 and card.input.shape == SHAPE and 0 < card.metrics["dice"] <= 1 and card.metrics["pairs"] == 2
    validation = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines() if '"validation"' in line]
    assert [line["step"] for line in validation] == [3, 6] and all(math.isfinite(line["sdlogj"]) for line in validation)
    code, told = run("train", "lapirn", "--data", manifest, "-o", out, "--config", manifest.with_name("small.toml"), capsys=capsys)
    assert code == 2 and "already holds a training; go on with --resume" in told and told.count("\n") == 1
    code, told = run("train", "lapirn", "--data", manifest, "-o", out, "--resume", "--quiet", capsys=capsys)
    assert code == 0 and not told  # nothing left to do
    other = tmp_path / "other.toml"
    other.write_text(SMALL.replace("learning_rate = 0.01", "learning_rate = 0.02"))
    code, told = run("train", "lapirn", "--data", manifest, "-o", out, "--resume", "--config", other, capsys=capsys)
    assert code == 2 and "loop.learning_rate was 0.01 and is 0.02" in told
    kept = (out / "config.toml").read_text()
    (out / "config.toml").write_text("".join(line + "\n" for line in kept.splitlines() if not line.startswith("clip")))
    assert run("train", "lapirn", "--data", manifest, "-o", out, "--resume", "--quiet", capsys=capsys)[0] == 0  # an option that came later


@pytest.mark.parametrize(
    "change, code, message",
    [
        (("steps = [3, 3]", "steps = [3]"), 2, "network.levels is 2, but steps has 1 values"),
        (("dims = 2", "dims = 3"), 2, "the scans are 2-D and network.dims is 3"),
        (("shape = [24, 32]", "shape = [24, 30]"), 2, "multiple of 4"),
        (("levels = 2", "level = 2"), 2, "did you mean network.levels?"),
    ],
)
def test_a_wrong_configuration_is_one_line(manifest, tmp_path, capsys, change, code, message):
    config = tmp_path / "c.toml"
    config.write_text(SMALL.replace(*change))
    found, told = run("train", "lapirn", "--data", manifest, "-o", tmp_path / "run", "--config", config, "--quiet", capsys=capsys)
    assert found == code and message in told and told.count("\n") == 1
    assert not (tmp_path / "run").exists()  # or the mended one would be taken for one to resume


@pytest.mark.parametrize(
    "kind, wrong, message",
    [
        ("ldgnet", "dilations = [0]", "dilations must be at least 1"),
        ("ldgnet", "dilations = []", "dilations must be at least 1"),
        ("voxelmorph", "int_steps = 0", "int_steps"),
        ("lapirn", "start_channels = 0", "start_channels must be at least 1"),
        ("segmentation-unet", "channels = 0", "channels at least 1"),
        ("attention-fusion", "shrink = 0", "shrink must be at least 1"),
        ("attention-fusion", "int_steps = 0", "int_steps must be at least 1"),
    ],
)
def test_what_the_network_refuses_is_told_before_scans_are_prepared(manifest, tmp_path, capsys, kind, wrong, message):
    config = tmp_path / "c.toml"
    config.write_text(f"[network]\ndims = 2\n{wrong}\n")
    cache = tmp_path / "cache"
    given = ("--data", manifest, "-o", tmp_path / "run", "--config", config, "--cache", cache)
    code, told = run("train", kind, *given, capsys=capsys)
    assert code == 2 and message in told and told.count("\n") == 1
    assert not (tmp_path / "run").exists() and not cache.exists()


def test_the_command_line_names_what_is_missing(tmp_path, capsys):
    assert run("train", "lapirn", capsys=capsys) == (2, "regkit: regkit train lapirn needs --data CSV, -o OUT; see regkit train --help\n")
    code, told = run("train", "lapirm", capsys=capsys)
    assert code == 2 and "did you mean lapirn?" in told
    code, told = run("train", "lapirn", "--data", tmp_path / "no.csv", "-o", tmp_path / "x", capsys=capsys)
    assert code == 3 and "no.csv" in told and not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["lapirn", "conditional-lapirn", "voxelmorph", "ldgnet"])  # others: test_chest_xray_training.py
def test_the_networks_for_any_scans_learn(manifest, tmp_path, capsys, kind):
    config = SMALL if "lapirn" in kind else "steps = 2\n[network]\ndims = 2\n[loss]\ndice = 1.0\n[loop]\nvalidate_every = 2\n"
    (tmp_path / "c.toml").write_text(config)
    code, told = run("train", kind, "--data", manifest, "-o", tmp_path / "run", "--config", tmp_path / "c.toml", capsys=capsys)
    assert code == 0, told
    assert load_model(tmp_path / "run" / "model.safetensors")[1].network == kind


@pytest.mark.parametrize("kind", sorted(TRAININGS))
def test_every_training_prints_its_configuration(capsys, tmp_path, kind):
    """As --config reads it."""
    assert cli.main(["train", kind, "--print-config"]) == 0
    (tmp_path / "c.toml").write_text(told := capsys.readouterr().out)
    assert cli.main(["train", kind, "--print-config", "--config", str(tmp_path / "c.toml")]) == 0
    assert capsys.readouterr().out == told and "[loop]" in told
