"""The chest X-ray system's trainings: segmentation, label auto-encoder, attention-guided fusion, AC-RegNet."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from regkit import cli, losses, ops
from regkit.data.augment import AffineAugmentation
from regkit.data.config import DataConfig, datasets
from regkit.data.elastic import ElasticAugmentation
from regkit.data.intensity import IntensityAugmentation
from regkit.data.manifest import read_manifest
from regkit.errors import InputError, UsageError
from regkit.geometry import Image
from regkit.models.input import NetworkInput
from regkit.models.weights import load_model
from regkit.training.attention_fusion import SIDES, FusionLoss, FusionNetwork, FusionTask, FusionTraining
from regkit.training.label_autoencoder import AutoencoderTask, AutoencoderTraining, swapped
from regkit.training.segmentation import SegmentationNetwork, SegmentationTask, SegmentationTraining, segmentation_dice
from regkit.training.shape import ShapeLoss, ShapeWeights

SIZE = 32
LOOP = """
[data]
pairs = "random"
augmentation = {probability = 0.0}
[loop]
batch = 2
learning_rate = 0.01
validate_every = 2
save_every = 2
log_every = 1
"""
STAGES = {
    "segmentation-unet": "steps = 2\nnetwork = {channels = 2}\n",
    "label-autoencoder": "steps = 2\nnetwork = {code = 4}\n",
    "attention-fusion": 'steps = 2\nattention = "{attention}"\nautoencoder = "{autoencoder}"\nnetwork = {{channels = [2, 2, 2, 2]}}\n',
    "ac-regnet": 'steps = 2\nautoencoder = "{autoencoder}"\n',
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Two bright ellipses side by side, as lungs are."""
    folder, lines = tmp_path_factory.mktemp("lungs"), ["image,label,split"]
    i, j = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    for n in range(5):
        random = np.random.default_rng(n)
        labels = np.zeros((SIZE, SIZE), np.uint8)
        for center in (9, 23):
            place, radii = (center, 16) + random.uniform(-2, 2, 2), random.uniform((4, 7), (6, 11))
            labels |= ((((i - place[0]) / radii[0]) ** 2 + ((j - place[1]) / radii[1]) ** 2) < 1).astype(np.uint8) * 255
        Image.from_array((60 + 0.5 * labels + 20 * random.random((SIZE, SIZE))).astype(np.uint8)).save(folder / f"{n}.png")
        Image.from_array(labels).save(folder / f"{n}_labels.png")
        lines.append(f"{n}.png,{n}_labels.png,{'train' if n < 3 else 'validation'}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv"


@pytest.fixture(scope="module")
def stages(manifest, tmp_path_factory):
    """All four, trained for two steps by regkit train."""
    home = tmp_path_factory.mktemp("stages")
    weights = {
        name: home / kind / "model.safetensors" for name, kind in (("attention", "segmentation-unet"), ("autoencoder", "label-autoencoder"))
    }
    for kind, table in STAGES.items():
        (home / f"{kind}.toml").write_text((table.format(**weights) if "{a" in table else table) + LOOP)
        assert (
            cli.main(["train", kind, "--data", str(manifest), "-o", str(home / kind), "--config", str(home / f"{kind}.toml"), "--quiet"])
            == 0
        )
    return home


def data_of(manifest, tmp_path, **options):
    return datasets(read_manifest(manifest), DataConfig(input=NetworkInput(), **options), multiple=16, cache_dir=tmp_path)


def batch_of(data, count: int = 2) -> dict[str, torch.Tensor]:
    return {name: torch.stack([data.train[n][name] for n in range(count)]) for name in data.train[0]}


def hot(labels: torch.Tensor) -> torch.Tensor:
    return torch.cat([labels == 0, labels == 255], 1).float()


def test_segmentation_learns_both_scans_of_a_pair(manifest, tmp_path):
    torch.manual_seed(0)
    data = data_of(manifest, tmp_path)
    task = SegmentationTask(SegmentationTraining(network=SegmentationNetwork(channels=4)), data)
    batch = batch_of(data)
    terms = task.loss(batch, 0)
    logits = task.network(torch.cat([batch["fixed"], batch["moving"]]))
    truth = torch.cat([batch["fixed_labels"], batch["moving_labels"]])
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    edges = [F.conv2d(F.pad(x.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate"), kernel) for x in (logits.softmax(1), hot(truth))]
    torch.testing.assert_close(terms["cross_entropy"], F.cross_entropy(logits, (truth[:, 0] == 255).long()))
    torch.testing.assert_close(terms["contour"], 1.75 * (edges[0] - edges[1]).square().mean())
    optimiser = torch.optim.Adam(task.trained(0), 0.01)
    for _ in range(60):
        optimiser.zero_grad()
        sum(task.loss(batch, 0).values()).backward()
        optimiser.step()
    task.network.eval()
    with torch.no_grad():
        pair = data.validation[0]
        assert segmentation_dice(task.network(pair.fixed).softmax(1), pair.frame, pair.fixed_labels, (255,)) > 0.9


def test_swapped_pixels_exchange_places_with_a_neighbour():
    torch.manual_seed(0)
    maps = torch.arange(2 * 1 * 50 * 40.0).reshape(2, 1, 50, 40)
    noisy = swapped(maps, 0.3)
    assert torch.equal(noisy.sort(2).values, maps)  # nothing lost, nothing doubled, no column left
    moved = (noisy - maps) / 40
    assert set(moved.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert 0.2 < (moved != 0).float().mean() < 0.4
    assert torch.equal(swapped(maps, 0.0), maps)


def test_autoencoder_sees_noise_and_is_asked_for_the_clean_map(manifest, tmp_path):
    data = data_of(manifest, tmp_path)
    task = AutoencoderTask(AutoencoderTraining(), data)
    assert task.options == {"code": 32, "classes": 2, "size": SIZE}
    seen = []
    task.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = batch_of(data)
    terms = task.loss(batch, 0)
    truth = hot(torch.cat([batch["fixed_labels"], batch["moving_labels"]]))
    assert seen[0].shape == truth.shape and not torch.equal(seen[0], truth)
    assert set(terms) == {"cross_entropy", "contour"}


def test_fusion_loss_is_the_papers(manifest, tmp_path, stages):
    data = data_of(manifest, tmp_path, augmentation=AffineAugmentation(probability=0.0))
    config = FusionTraining(
        attention=str(stages / "segmentation-unet/model.safetensors"),
        autoencoder=str(stages / "label-autoencoder/model.safetensors"),
        network=FusionNetwork(channels=(2, 2, 2, 2), mask="soft"),
        loss=FusionLoss(ncc=2.0, ssim=0.5, shape=ShapeWeights(folds=3.0, smoothness=2.0)),
    )
    torch.manual_seed(0)
    task = FusionTask(config, data)
    task.network.eval()
    for parameter in task.network.registration.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    batch = batch_of(data)
    terms = task.loss(batch, 0)
    u = task.network(batch["fixed"], batch["moving"])
    fixed, moving = (task.network.clean(batch[name]).image for name in ("fixed", "moving"))
    moved = ops.warp(moving, u, padding="border")
    labels = ops.warp(hot(batch["moving_labels"]), u, padding="border")
    encoder, _ = load_model(config.autoencoder)
    codes = [encoder.encode(x) for x in (hot(batch["fixed_labels"]), labels)]
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (fixed, moved))
    wanted = {
        "ncc": -2 * ((a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()).mean(),
        "ssim": 0.5 * losses.ssim_loss(fixed, moved),
        "cross_entropy": -(hot(batch["fixed_labels"]) * (0.05 + 0.95 * labels).log()).sum(1).mean(),
        "code": 0.1 * (codes[0] - codes[1]).square().sum(1).mean(),
        "total_variation": 3.5 * (u.diff(dim=2).abs().mean() + u.diff(dim=3).abs().mean()) / 2,
        "smoothness": 2 * ops.diffusion_energy(u),
        "folds": 3 * losses.fold_loss(u),
    }
    assert set(terms) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value, rtol=2e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    sum(terms.values()).backward()
    assert all(parameter.grad is None for parameter in task.network.attention.parameters())
    assert all(parameter.grad is None for parameter in task.shape.encoder.parameters())


def test_codes_of_a_finer_frame_are_those_of_means(manifest, tmp_path, stages):
    """An auto-encoder of 32 x 32 behind labels of 64 x 64."""
    weights = stages / "label-autoencoder/model.safetensors"
    loss = ShapeLoss(ShapeWeights(cross_entropy=0.0, total_variation=0.0, code=1.0), (255,), (2 * SIZE, 2 * SIZE), str(weights))
    maps = [torch.randint(0, 2, (2, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(n)).to(torch.uint8) * 255 for n in (0, 1)]
    encoder, _ = load_model(weights)
    with torch.no_grad():
        wanted = (encoder.encode(hot(maps[0])) - encoder.encode(hot(maps[1]))).square().sum(1).mean()
    fine = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in maps]
    torch.testing.assert_close(loss.terms(torch.zeros(2, 2, 2 * SIZE, 2 * SIZE), *fine)["code"], wanted)
    for shape in ((SIZE, 2 * SIZE), (SIZE // 2, SIZE // 2)):
        with pytest.raises(InputError, match="32 pixels an axis"):
            ShapeLoss(ShapeWeights(), (255,), shape, str(weights))


def weights_of(stages) -> dict[str, str]:
    kinds = (("attention", "segmentation-unet"), ("autoencoder", "label-autoencoder"))
    return {name: str(stages / kind / "model.safetensors") for name, kind in kinds}


@pytest.mark.parametrize("turned, shaded", [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)])
def test_masks_are_made_once_unless_grey_values_vary(manifest, tmp_path, stages, turned, shaded):
    options = {"augmentation": AffineAugmentation(probability=turned), "intensity": IntensityAugmentation(probability=shaded)}
    data = data_of(manifest, tmp_path, **options)
    assert data.train.varies == (turned > 0)
    torch.manual_seed(0)
    task = FusionTask(FusionTraining(**weights_of(stages), network=FusionNetwork(channels=(2, 2, 2, 2), mask="soft")), data)
    assert data.train.varies == (shaded > 0)
    asked = []
    task.network.attention.register_forward_hook(lambda _, args, out: asked.append(len(args[0])))
    batch = batch_of(data, 6)  # all pairs of three scans
    first, again = (task.loss(batch, 0) for _ in range(2))
    assert sum(asked) == (24 if shaded else 3)
    for name in first:
        torch.testing.assert_close(first[name], again[name])
    for side, cleaned in zip(("fixed", "moving"), task._cleaned(batch)):
        torch.testing.assert_close(asdict(cleaned), asdict(task.network.clean(batch[side])))


def test_scans_are_changed_behind_their_masks(manifest, tmp_path, stages):
    """Where there are no masks it is the same as before: the loss is that of scans that the data have changed."""
    options = {"augmentation": AffineAugmentation(probability=1.0), "elastic": ElasticAugmentation(probability=1.0)}
    found = []
    for changes in ("given", "applied"):
        torch.manual_seed(0)
        data = data_of(manifest, tmp_path, **options)
        config = FusionTraining(**weights_of(stages), network=FusionNetwork(channels=(2, 2, 2, 2), mask="none"))
        task = FusionTask(config, data)
        data.train.changes = changes
        batch = batch_of(data, 6)
        found.append(
            task.loss(batch if changes == "given" else batch | {f"{side}_change": torch.zeros(6, 2, SIZE, SIZE) for side in SIDES}, 0)
        )
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], msg=lambda text, name=name: f"{name}: {text}")


def test_trained_stages_register_from_one_file(stages, manifest, tmp_path, capsys):
    """The registration's weights hold the attention's: nothing else is needed, and what does not register says so."""
    attention, _ = load_model(stages / "segmentation-unet/model.safetensors")
    fusion, card = load_model(stages / "attention-fusion/model.safetensors")
    for name, tensor in attention.state_dict().items():
        assert torch.equal(fusion.attention.state_dict()[name], tensor), name
    assert card.training["attention"].endswith("segmentation-unet/model.safetensors")
    scans = [str(manifest.parent / f"{n}.png") for n in (3, 4)]
    for kind in ("attention-fusion", "ac-regnet"):
        weights = str(stages / kind / "model.safetensors")
        assert cli.main(["register", "--model", weights, "-f", scans[0], "-m", scans[1], "-o", str(tmp_path / kind), "--quiet"]) == 0
    capsys.readouterr()
    weights = str(stages / "segmentation-unet/model.safetensors")
    assert cli.main(["register", "--model", weights, "-f", scans[0], "-m", scans[1], "-o", str(tmp_path / "none")]) == 2
    assert "does not register" in capsys.readouterr().err
    scores = [json.loads(line) for line in (stages / "attention-fusion/log.jsonl").read_text().splitlines()]
    assert [line["dice"] for line in scores if line["event"] == "validation"]


def test_what_is_missing_is_named(manifest, tmp_path, stages):
    data = data_of(manifest, tmp_path)
    seg, code = (str(stages / kind / "model.safetensors") for kind in ("segmentation-unet", "label-autoencoder"))
    with pytest.raises(UsageError, match="set attention to its weights"):
        FusionTask(FusionTraining(), data)
    with pytest.raises(InputError, match="label-autoencoder; give the weights of a segmentation-unet"):
        FusionTask(FusionTraining(attention=code), data)
    with pytest.raises(UsageError, match="set autoencoder to its weights"):
        FusionTask(FusionTraining(attention=seg), data)
    with pytest.raises(InputError, match="segmentation-unet; give the weights of a label-autoencoder"):
        FusionTask(FusionTraining(attention=seg, autoencoder=seg), data)
    with pytest.raises(UsageError, match="label_scale must be 1"):
        SegmentationTask(SegmentationTraining(), data_of(manifest, tmp_path, label_scale=2))
    bare = manifest.parent / "bare.csv"
    bare.write_text("image,split\n0.png,train\n1.png,train\n")
    with pytest.raises(InputError, match="learns from label maps"):
        SegmentationTask(SegmentationTraining(), data_of(bare, tmp_path))
