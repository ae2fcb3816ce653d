"""Validation pairs: which they are, and that measures on the scans' own grids are those of the transform in the world."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from regkit import ops
from regkit.data import DataConfig, PreparedScans, ValidationPairs, datasets, read_manifest, smooth_random_displacement, to_scan_grid
from regkit.errors import InputError, UsageError
from regkit.geometry import Affine, Composite, DisplacementField, Grid, Points, read_image, resample, write_points
from regkit.models.input import NetworkInput, see
from regkit.registration.toml import override, to_toml
from tests.data.conftest import blobs


def oblique(shape, spacing, degrees, origin):
    """A grid turned in the plane of its first two axes, its first axis flipped."""
    a = np.radians(degrees)
    affine = np.diag([-1.0, *[1.0] * (len(shape) - 1), 1.0])
    turn = np.eye(len(shape) + 1)
    turn[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    affine = turn @ affine @ np.diag([*spacing, 1.0])
    affine[:-1, -1] = origin
    return Grid(shape, affine)


@pytest.mark.parametrize("dims", [2, 3])
def test_displacement_on_the_scans_grid_is_that_of_the_transform(dims):
    fixed = oblique((30, 24, 20)[:dims], (1.5, 1.2, 2.5)[:dims], 12, (20.0, -5.0, 3.0)[:dims])
    moving = oblique((26, 28, 24)[:dims], (1.7, 1.1, 2.0)[:dims], -7, (24.0, -9.0, 5.0)[:dims])
    middle = np.eye(dims + 1)
    middle[:-1, :-1] = fixed.directions * 2.0
    middle[:-1, -1] = fixed.center - middle[:-1, :-1] @ ((np.array((24, 20, 28)[:dims]) - 1) / 2)
    frame = Grid((24, 20, 28)[:dims], middle)
    matrix = np.eye(dims + 1)
    matrix[:-1] += 0.03 * np.random.default_rng(0).normal(size=(dims, dims + 1))
    affine = Affine(matrix)
    u = smooth_random_displacement(frame.shape, amplitude=2.0, sigma=5.0)
    found = to_scan_grid(u, frame, fixed, moving, affine)
    assert found.shape == (1, dims, *fixed.shape) and found.dtype == torch.float32

    # point by point, without the code that makes displacements of transforms
    chain = Composite([affine, DisplacementField.from_voxels(u[0].numpy(), frame)])
    index = np.stack(np.meshgrid(*(np.arange(n) for n in fixed.shape), indexing="ij"), -1).reshape(-1, dims)
    wanted = moving.to_index(chain.apply(fixed.to_world(index))) - index
    assert np.abs(found[0].reshape(dims, -1).T.numpy() - wanted).max() < 2e-4

    _, labels = blobs(moving, 3)
    carried = ops.warp_labels(labels.tensor(dtype=torch.uint8), found, padding="extent")
    assert (carried[0, 0].numpy() == resample(labels, fixed, chain).data).mean() > 0.9999


def test_beyond_the_frame_the_displacement_fades():
    fixed = Grid.from_spacing((40, 32), 2.0)
    frame = fixed.crop((14, 8), (26, 24))
    u = torch.full((1, 2, *frame.shape), 3.0)
    found = to_scan_grid(u, frame, fixed, fixed, Affine.identity(2))[0]
    assert torch.allclose(found[:, 14:26, 8:24], u[0], atol=1e-5)
    assert max(found.diff(dim=1).abs().max(), found.diff(dim=2).abs().max()) < 0.5  # no tear, which would be 3 voxels
    assert found[:, [0, -1]].abs().max() < 0.5 and found.min() >= 0


@pytest.fixture
def manifest(write_cases, tmp_path):
    shapes = [(12, 10, 8), (10, 12, 8), (12, 12, 10), (10, 11, 9), (9, 11, 12)]
    splits = ["train", "train", "val", "val", "val"]
    for n in range(5):
        write_points(Points(np.array([[4.0, 6.0, 2.0 + n], [8.0, 6.0, 3.0]])), tmp_path / f"points{n}.csv")
    return read_manifest(write_cases(shapes, [{"split": split, "landmarks": f"points{n}.csv"} for n, split in enumerate(splits)]))


def test_all_pairs_or_some_that_stay(manifest, tmp_path):
    cases = manifest.split("validation")
    scans = PreparedScans(cases, NetworkInput(), tmp_path / "cache")
    whole = ValidationPairs(scans, cases, NetworkInput())
    assert len(whole) == len(set(whole.pairs)) == 6
    some = [ValidationPairs(scans, cases, NetworkInput(), limit=3, seed=seed).pairs for seed in (0, 0, 1)]
    assert some[0] == some[1] != some[2] and len(set(some[0])) == 3 and set(some[0]) < set(whole.pairs)
    assert len(ValidationPairs(scans, cases, NetworkInput(), limit=9)) == 6
    with pytest.raises(InputError, match="of 1 validation scans no two can be paired"):
        ValidationPairs(scans, cases[:1], NetworkInput())


def test_a_pair_keeps_its_files_as_they_are(manifest, tmp_path):
    options = NetworkInput(shrink=2.0, align="centres")
    scans = PreparedScans(manifest.cases, options, tmp_path / "cache")
    pairs = ValidationPairs(scans, manifest.split("validation"), options, multiple=4)
    for pair in (pairs[n] for n in range(3)):
        labels = read_image(pair.moving_case.label)
        assert pair.moving_labels.grid == labels.grid == pair.scan_grids[1] and np.array_equal(pair.moving_labels.data, labels.data)
        assert pair.fixed.shape == (1, 1, *pair.frame.shape) == pair.moving.shape
        assert torch.equal(pair.moving, see(scans[pair.moving_case].prepared, pair.frame, pair.affine))
        assert pair.fixed_points.ndim == 3 and len(pair.fixed_points) == 2
        # nothing moves in the frame: what is left is the alignment
        u = torch.zeros(1, 3, *pair.frame.shape)
        assert np.allclose(pair.transform(u).apply(pair.fixed_points.coordinates), pair.affine.apply(pair.fixed_points.coordinates))
        moved = ops.warp_labels(pair.moving_labels.tensor(dtype=torch.uint8), pair.scan_displacement(u), padding="extent")
        assert np.array_equal(moved[0, 0].numpy(), resample(labels, pair.fixed_labels.grid, pair.affine).data)


def test_without_labels_the_scans_own_grids_are_kept(manifest, tmp_path):
    cases = tuple(replace(case, label=None) for case in manifest.split("validation"))
    options = NetworkInput(shrink=2.0)
    pair = ValidationPairs(PreparedScans(cases, options, tmp_path / "cache"), cases, options)[0]
    assert pair.fixed_labels is None
    assert pair.scan_grids == (read_image(pair.fixed_case.image).grid, read_image(pair.moving_case.image).grid)


def test_datasets_of_a_configuration(manifest, tmp_path):
    config = DataConfig(validation_pairs=2, pairs="random")
    seen = []
    train, validation = datasets(
        manifest, config, multiple=8, seed=3, samples=50, cache_dir=tmp_path / "cache", progress=lambda *args: seen.append(args[1])
    )
    assert len(train) == 50 and len(validation) == 2 and seen[-1] == 1.0 and len(seen) == 5
    assert train[0]["fixed"].shape == (1, 16, 16, 8)
    assert {case.split for pair in validation.pairs for case in pair} == {"validation"}
    assert {case.split for n in range(20) for case in train.cases(n)} == {"train"}


def test_configuration_as_toml():
    import tomllib

    config = DataConfig(input=NetworkInput(shape=(8, 8, 8), spacing_mm=2.0), jointly=True, validation_pairs=7)
    assert override(DataConfig(), tomllib.loads(to_toml(config))) == config
    with pytest.raises(UsageError, match="unknown key augmentation.rotaton; did you mean augmentation.rotation?"):
        override(DataConfig(), {"augmentation": {"rotaton": 3.0}})
    with pytest.raises(UsageError, match="validation_pairs must be at least 1"):
        override(DataConfig(), {"validation_pairs": 0})
    with pytest.raises(UsageError, match="label_scale must be at least 1"):
        DataConfig(label_scale=0)


def test_nothing_to_train_on(manifest, tmp_path):
    with pytest.raises(InputError, match="no scan is in the split train"):
        datasets(replace(manifest, cases=manifest.split("validation")), DataConfig(), multiple=1, cache_dir=tmp_path)
