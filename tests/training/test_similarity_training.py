"""Training of the similarity-steered CNN: which places are drawn, that it learns, goes on as if unbroken, and registers afterwards."""

import json
import tomllib
from dataclasses import replace

import numpy as np
import pytest
import torch

import regkit
from regkit import cli, ops
from regkit.data.config import datasets
from regkit.data.manifest import read_manifest
from regkit.errors import InputError, UsageError
from regkit.geometry import Image
from regkit.models.weights import load_model
from regkit.registration.toml import override
from regkit.training.distributed import World
from regkit.training.patches import KnownPair, PatchDataset, Samples, drawn_places, known_pairs, patch_datasets
from regkit.training.similarity_cnn import SimilarityTask, SimilarityTraining

SHAPE = (30, 32, 28)
SEEN = {"patch_size": 19, "kernel_sizes": (3, 5)}
SMALL = """
steps = 4
[network]
width = 0.02
share = 0.004
patch = 19
kernel_sizes = [3, 5]
[samples]
pairs = 2
per_pair = 60
held_out = 10
[data.input]
shape = [30, 32, 28]
[loop]
batch = 4
learning_rate = 1e-3
validate_every = 2
save_every = 2
log_every = 1
"""


CONFIG = override(SimilarityTraining(), tomllib.loads(SMALL), "test")


def head(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A dark ball somewhere near the middle of a brighter one, and their labels."""
    random = np.random.default_rng(seed)
    axes = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1)
    outer = np.linalg.norm(axes - np.array(SHAPE) / 2 - random.uniform(-1.5, 1.5, 3), axis=-1) < 11
    inner = np.linalg.norm(axes - np.array(SHAPE) / 2 - random.uniform(-2, 2, 3), axis=-1) < 5
    labels = outer.astype(np.uint8) + inner
    return np.choose(labels, [0, 0.9, 0.4]).astype(np.float32) + outer * 0.02 * random.random(SHAPE).astype(np.float32), labels


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    lines = ["image,label,split"]
    for n in range(3):
        image, labels = head(n)
        Image.from_array(image).save(folder / f"{n}.nii.gz")
        Image.from_array(labels).save(folder / f"{n}_labels.nii.gz")
        lines.append(f"{n}.nii.gz,{n}_labels.nii.gz,train")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    (folder / "small.toml").write_text(SMALL)
    return folder / "pairs.csv"


@pytest.fixture(scope="module")
def data(manifest):
    """The made heads as a training has them; what is found of them is kept for all tests."""
    return datasets(read_manifest(manifest), CONFIG.data, multiple=1, cache_dir=manifest.parent / "cache")


def made_pair(seed: int = 0, longest: float = 9.0) -> KnownPair:
    """A body of noise whose parts moved by up to `longest` voxels along the first axis, most of them hardly."""
    noise = ops.smooth(torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(seed)))
    fixed = 0.1 + noise
    fixed[..., :4] = 0
    u = torch.zeros(1, 3, *SHAPE)
    u[:, 0] = longest * torch.linspace(0, 1, SHAPE[1])[:, None] ** 3
    return KnownPair(fixed, ops.warp(fixed, -u), u, torch.tensor([2.0, 2.0, 2.0]), f"made {seed}")


def test_equalised_places_move_further_than_even_ones():
    pair = made_pair()
    drawn = {}
    for sampling in ("even", "equalised"):
        places = drawn_places(pair, Samples(per_pair=800, sampling=sampling), 7.0, torch.Generator().manual_seed(0))
        assert abs(len(places) - 800) < 5 * 800**0.5 and (pair.fixed[0, 0][tuple(places.T)] > 0).all()
        drawn[sampling] = pair.displacement[0, 0][tuple(places.T)]
        assert drawn[sampling].max() <= 7
    assert (drawn["even"] < 1).float().mean() > 0.45 and (drawn["equalised"] < 1).float().mean() < 0.1
    kept = drawn_places(pair, Samples(per_pair=800, saturate=True), 7.0, torch.Generator().manual_seed(0))
    assert pair.displacement[0, 0][tuple(kept.T)].max() > 7


def test_a_sample_is_what_the_op_gives_at_its_place():
    pairs = [made_pair(0), made_pair(1)]
    learned, held_out = patch_datasets(Samples(per_pair=50, held_out=8), pairs, 7.0, 3, **SEEN)
    assert len(held_out) == 8 and not {tuple(p) for p in learned.places.tolist()} & {tuple(p) for p in held_out.places.tolist()}
    ordered = [tuple(learned._place(n).tolist()) for n in range(len(learned))]
    assert len(set(ordered)) == len(learned) and ordered != [tuple(place) for place in learned.places.tolist()]  # every place once
    assert all(len({number for number, *_ in ordered[n : n + 16]}) == 1 for n in range(0, len(learned) // 16 * 16 - 16, 16))
    assert ordered != [tuple(learned._place(n + len(learned)).tolist()) for n in range(len(learned))]  # another order each epoch
    for n in (0, 30, len(learned) - 1):
        number, *voxel = ordered[n]
        patches = ops.similarity_maps(pairs[number].fixed, pairs[number].moving, torch.tensor([[voxel]]).float(), **SEEN)
        assert torch.equal(learned[n]["patches"], patches[0, 0])
        assert torch.equal(learned[n]["displacement"], pairs[number].displacement[0][(slice(None), *voxel)])
    torch.testing.assert_close(learned.__getitems__([5, 40, 7])[1], learned[40])
    torch.testing.assert_close(learned[5], PatchDataset(pairs, learned.places, 3, **SEEN)[5])  # whatever was asked for before
    with pytest.raises(UsageError, match="hold"):
        patch_datasets(Samples(per_pair=50, held_out=60), pairs, 7.0, 3, **SEEN)


def test_motions_are_found_once(data, monkeypatch):
    told = []
    pairs = known_pairs(CONFIG.samples, data, 0, lambda *what: told.append(what))
    assert len(pairs) == 2 and told[-1][1] == 1.0 and "<-" in told[0][2]
    for pair in pairs:
        after = ops.warp(pair.moving, pair.displacement)
        assert (after - pair.fixed).square().mean() < 0.5 * (pair.moving - pair.fixed).square().mean()
    monkeypatch.setattr("regkit.training.patches.ground_truth", lambda *args, **options: pytest.fail("registered again"))
    again = known_pairs(replace(CONFIG.samples, pairs=1), data, 0)
    assert torch.equal(again[0].displacement, pairs[0].displacement)


def test_training_goes_on_as_if_unbroken_and_registers(manifest, tmp_path, monkeypatch):
    call = ["train", "similarity-cnn", "--data", str(manifest), "--cache", str(manifest.parent / "cache"), "--quiet", "--threads", "1"]
    small = ["--config", str(manifest.parent / "small.toml")]
    assert cli.main([*call, *small, "-o", str(tmp_path / "whole")]) == 0

    from regkit.training import loop

    checked, validations = loop._Training._validate, []

    def dies(self, name):
        validations.append(name)
        if len(validations) == 2:
            raise KeyboardInterrupt
        return checked(self, name)

    monkeypatch.setattr(loop._Training, "_validate", dies)
    assert cli.main([*call, *small, "-o", str(tmp_path / "broken")]) != 0
    monkeypatch.undo()
    assert cli.main([*call, "--resume", "-o", str(tmp_path / "broken")]) == 0
    networks = [load_model(tmp_path / name / "last.safetensors") for name in ("whole", "broken")]
    for name, tensor in networks[0][0].state_dict().items():
        assert torch.equal(tensor, networks[1][0].state_dict()[name]), name
    card = networks[0][1]
    assert card.network == "similarity-cnn" and 0 < card.metrics["error_mm"] < 10 and card.options["kernel_sizes"] == [3, 5]
    events = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert any("square" in event for event in events)

    folder = manifest.parent
    result = regkit.register(folder / "0.nii.gz", folder / "1.nii.gz", model=str(tmp_path / "whole/last.safetensors"), threads=1)
    assert result.moved.data.shape == SHAPE and result.record.model["card"]["network"] == "similarity-cnn"


def test_it_learns(data):
    """The loss of a few samples falls; the score is the mean error on the samples that were held out."""
    torch.manual_seed(0)
    task = SimilarityTask(replace(CONFIG, network=replace(CONFIG.network, width=0.05, kernel_sizes=(5,))), data)
    batch = {name: torch.stack([task.dataset[n][name] for n in range(12)]) for name in task.dataset[0]}
    optimiser, losses = torch.optim.Adam(task.trained(0), lr=2e-3), []
    for _ in range(40):
        loss = sum(task.loss(batch, 0).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
    score = task.validate(0, World(), torch.device("cpu")).metrics
    told = task.network.cnn(*(torch.stack([task.held_out[n]["patches"] for n in range(10)]).split([1, 1, 1], 1)))
    errors = (told.detach() - torch.stack([task.held_out[n]["displacement"] for n in range(10)])).norm(dim=1)  # voxels of 1 mm
    assert score["error_mm"] == pytest.approx(float(errors.mean()), rel=1e-4) and score["motion_mm"] > 0.5


@pytest.mark.parametrize("wrong", [{"mirror": [0]}, {"augmentation": {"probability": 0.5}}, {"elastic": {"probability": 0.5}}])
def test_changes_of_the_scans_are_refused(wrong):
    with pytest.raises(UsageError, match="scans as they are"):
        override(SimilarityTraining(), {"data": wrong}, "test")


def test_mistakes_are_told(manifest, tmp_path):
    with pytest.raises(UsageError, match="at least 1"):
        Samples(pairs=0)
    bare = tmp_path / "bare.csv"
    bare.write_text("image,split\n" + "".join(f"{manifest.parent / f'{n}.nii.gz'},train\n" for n in range(3)))
    unlabelled = datasets(read_manifest(bare), CONFIG.data, multiple=1, cache_dir=tmp_path)
    with pytest.raises(InputError, match="label map"):
        known_pairs(CONFIG.samples, unlabelled, 0)
