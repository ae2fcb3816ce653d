"""Training of GraphRegNet on landmarks: what its samples hold, that it learns, and that it registers afterwards."""

import tomllib

import numpy as np
import pytest
import torch

from regkit.data import phantom
from regkit.data.config import datasets
from regkit.data.manifest import read_manifest
from regkit.data.pairs import see_case
from regkit.errors import InputError, UsageError
from regkit.models.weights import load_card
from regkit.registration.embedding import cost_volumes
from regkit.registration.toml import override
from regkit.training import known_maps
from regkit.training.distributed import World
from regkit.training.graphregnet import GraphTask, GraphTraining, _search
from regkit.training.start import start

SMALL = """
steps = 6
[network]
search_radius = 4
patch_radius = 1
neighbours = 5
[samples]
keypoints = 60
per_step = 40
[data.input]
intensity = {window = [-1000.0, 400.0]}
[loop]
learning_rate = 1e-2
validate_every = 6
save_every = 6
log_every = 2
"""
CONFIG = override(GraphTraining(), tomllib.loads(SMALL), "test")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Two breathing thoraces, one to learn from and one to validate on, with their masks and landmarks."""
    folder = tmp_path_factory.mktemp("thoraces")
    lines = ["name,image,mask,landmarks,split,group,role"]
    for seed, split in enumerate(("train", "validation")):
        made = phantom((48, 40, 44), spacing=(7.0, 7.0, 7.3), landmarks=50, motion_mm=20, seed=seed)
        made.save(folder / str(seed))
        for role in ("fixed", "moving"):
            names = [f"{role}-{seed}", f"{seed}/{role}.nii.gz", f"{seed}/{role}_mask.nii.gz", f"{seed}/{role}_points.csv"]
            lines.append(",".join([*names, split, str(seed), role]))
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv"


@pytest.fixture(scope="module")
def data(manifest):
    return datasets(read_manifest(manifest), CONFIG.data, multiple=1, cache_dir=manifest.parent / "cache")


@pytest.fixture
def task(data):
    torch.manual_seed(0)
    return GraphTask(CONFIG, data)


def test_samples(task):
    maps = task.dataset.maps[0]
    assert len(task.dataset) == 1 and maps.cost.dtype == torch.float16 and maps.cost.shape[1] == 9**3
    sample = task.dataset[3]
    known, others = len(maps.moved), len(maps.cost) - len(maps.moved)
    wanted = max(20, 40 - others)  # half of them, or more where there are few others
    assert 20 <= known and int(sample["known"]) == wanted and sample["moved"].shape == (wanted, 3)
    assert sample["cost"].shape == (min(40, wanted + others), 9**3)
    assert all(torch.equal(x, y) for x, y in zip(sample.values(), task.dataset[3].values()))
    assert not torch.equal(sample["keypoints"], task.dataset[4]["keypoints"])


def test_what_is_learned_is_the_phantoms_motion(task):
    """The least dissimilarity lies where the landmark has gone, for most of them."""
    maps = task.dataset.maps[0]
    best = maps.cost[: len(maps.moved)].float().argmin(1)
    steps = torch.stack(torch.meshgrid(*[torch.arange(-4.0, 5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    within = (maps.moved.abs() <= 8).all(1)
    assert ((2 * steps[best] - maps.moved)[within].abs().amax(1) <= 1.5).float().mean() > 0.6
    assert maps.moved.norm(dim=1).max() > 1


def test_turned_round_is_what_the_turned_scans_give(task, data):
    """Maps, places and displacements of scans turned round along an axis, for an axis at a time and for two."""
    maps, (fixed, moving) = task.dataset.maps[0], (data.train.pairs.cases[at] for at in data.train.pairs[0])
    grid, affine = data.train.scans.frame(fixed, data.train.shape, 1), data.train.scans.alignment(fixed, moving)
    seen = [see_case(data.train.scans[case], grid, to)["image"] for case, to in ((fixed, None), (moving, affine))]
    sample = {"cost": maps.cost, "keypoints": maps.keypoints, "moved": maps.moved, "shape": maps.shape}
    for axes in ([0], [1], [0, 2]):
        got = known_maps.turned(sample, axes)
        want = cost_volumes(*(image.flip([2 + axis for axis in axes]) for image in seen), got["keypoints"], _search(task.config))
        assert (got["cost"].float() - want).abs().max() < 2e-3
        signs = torch.tensor([-1.0 if axis in axes else 1.0 for axis in range(3)])
        assert torch.equal(got["moved"], maps.moved * signs)
    assert torch.equal(sample["keypoints"], maps.keypoints) and not torch.equal(got["keypoints"], maps.keypoints)


def test_samples_are_turned_round(task, data):
    still = GraphTask(override(CONFIG, {"samples": {"mirror": []}}, "test"), data)
    seen = set()
    for n in range(40):
        one, other = task.dataset[n], still.dataset[n]
        seen.add(tuple((one["moved"] * other["moved"]).sum(0).sign().tolist()))
        assert torch.equal(one["moved"].abs(), other["moved"].abs())
    assert len(seen) == 8


def test_copies_are_bent_and_know_it(data):
    """A copy's moving scan lies elsewhere, and the least dissimilarity is found where its landmarks say."""
    config = override(CONFIG, {"samples": {"copies": 3, "elastic": {"amplitude": 5.0, "sigma": 12.0}}}, "test")
    maps = GraphTask(config, data).dataset.maps
    assert len(maps) == 3 and len(GraphTask(config, data).held_out) == 1
    steps = torch.stack(torch.meshgrid(*[torch.arange(-4.0, 5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    bent = [float((copy.moved - maps[0].moved).norm(dim=1).max()) for copy in maps[1:]]
    assert 1 < max(bent) < 6 and 0 < min(bent)
    for copy in maps[1:]:
        within = (copy.moved.abs() <= 8).all(1)
        found = 2 * steps[copy.cost[: len(copy.moved)].float().argmin(1)]
        assert ((found - copy.moved)[within].abs().amax(1) <= 1.5).float().mean() > 0.6
    assert not torch.equal(maps[1].moved, maps[2].moved)
    again = GraphTask(config, data).dataset.maps
    assert all(torch.equal(one.cost, other.cost) for one, other in zip(maps, again))


def test_it_learns(task):
    """The loss on one sample falls by half in a few steps."""
    batch = {name: tensor[None] for name, tensor in task.dataset[0].items()}
    optimiser = torch.optim.Adam(task.trained(0), lr=2e-2)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = task.loss(batch, 0)["error"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.5 * losses[0]


def test_trains_and_says_so(manifest, tmp_path):
    task = start("graphregnet", CONFIG, manifest, tmp_path / "run", quiet=True)
    card = load_card(tmp_path / "run/last.safetensors")
    assert card.network == "graphregnet" and card.options["search_radius"] == 4
    assert set(card.metrics) >= {"error_mm", "motion_mm"} and np.isfinite(card.metrics["error_mm"])
    with torch.no_grad():
        score = task.validate(0, World(), torch.device("cpu"))
    assert score.metrics["motion_mm"] > 3


def test_messages(data, monkeypatch):
    with pytest.raises(UsageError, match="learns from scans as they are"):
        override(GraphTraining(), tomllib.loads("data.mirror = [0]"), "test")
    with pytest.raises(UsageError, match="takes one pair at once"):
        override(GraphTraining(), tomllib.loads("loop.batch = 2"), "test")
    with pytest.raises(UsageError, match="per_step at least 2"):
        override(GraphTraining(), tomllib.loads("samples.per_step = 1"), "test")
    for wrong in ("samples.copies = 0", "samples.mirror = [3]"):
        with pytest.raises(UsageError, match="samples.copies must be at least 1 and samples.mirror of axes 0, 1 and 2"):
            override(GraphTraining(), tomllib.loads(wrong), "test")
    monkeypatch.setattr(known_maps, "read_landmarks", lambda case: None)
    with pytest.raises(InputError, match="the same landmarks are needed in both scans, but there are 0 and 0"):
        GraphTask(CONFIG, data)
