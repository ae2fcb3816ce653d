"""Samples: reproducible, complete, aligned, and equal on image and labels."""

from collections import Counter
from dataclasses import replace
from itertools import permutations
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from regkit import ops
from regkit.data import (
    AffineAugmentation,
    ElasticAugmentation,
    IntensityAugmentation,
    PairDataset,
    PreparedScans,
    common_shape,
    pairs,
    read_manifest,
)
from regkit.errors import InputError, UsageError
from regkit.geometry import Grid, Image, read_image, resample, write_image
from regkit.models.input import NetworkInput, frame, prepare, see
from tests.data.conftest import blobs

ALWAYS = AffineAugmentation(probability=1.0)


class Recorded(AffineAugmentation):
    """Keeps the matrices that it drew."""

    drawn: ClassVar[list[torch.Tensor]] = []

    def draw(self, size, generator):
        self.drawn.append(super().draw(size, generator))
        return self.drawn[-1]


@pytest.fixture
def make(write_cases, tmp_path):
    """A dataset of four 3-D scans, or of other shapes."""

    def build(shapes=((12, 10, 8), (10, 12, 8), (11, 10, 10), (12, 12, 8)), options=NetworkInput(), parts=("label",), scale=1, **wishes):
        cases = read_manifest(write_cases(list(shapes), parts=parts)).cases
        scans = PreparedScans(cases, options, tmp_path / "cache", label_scale=scale)
        return PairDataset(scans, cases, common_shape(scans, cases, options, 4), multiple=4, **wishes)

    return build


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("mode", ["all", "random"])
def test_a_sample_depends_on_seed_and_number_alone(make, mode):
    wishes = {"mode": mode, "augmentation": ALWAYS, "samples": 7}
    first, second, other = make(**wishes), make(**wishes), make(**wishes, seed=1)
    forward = [first[n] for n in (0, 5, 13, 1000)]
    backward = [second[n] for n in (1000, 13, 5, 0)]
    assert all(same(a, b) for a, b in zip(forward, reversed(backward)))
    assert not any(torch.equal(sample["fixed"], other[int(sample["index"])]["fixed"]) for sample in forward)
    assert len(first) == 7 and [int(sample["index"]) for sample in forward] == [0, 5, 13, 1000]
    with pytest.raises(IndexError):
        first[-1]


def test_all_ordered_pairs_once_an_epoch_in_an_order_of_its_own(make):
    data = make()
    assert data.epoch == len(data) == 12
    epochs = [[tuple(case.name for case in data.cases(n)) for n in range(start, start + 12)] for start in (0, 12, 24)]
    wanted = set(permutations([f"scan{n}" for n in range(4)], 2))
    assert all(set(epoch) == wanted for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_random_pairs_are_even(make):
    data = make(mode="random")
    counts = Counter(tuple(case.name for case in data.cases(n)) for n in range(1200))
    assert len(counts) == 12 and min(counts.values()) > 60 and max(counts.values()) < 140


def test_workers_give_the_same(make):
    data = make(parts=("label", "mask"), augmentation=ALWAYS, samples=6)
    alone = [data[n] for n in range(6)]
    for context, workers in (("fork", 2), ("spawn", 1)):
        loader = DataLoader(Subset(data, range(2, 6)), batch_size=2, num_workers=workers, multiprocessing_context=context)
        for k, batch in enumerate(loader):
            assert all(torch.equal(batch[name], torch.stack([s[name] for s in alone[2 + 2 * k : 4 + 2 * k]])) for name in batch)


def test_without_augmentation_the_network_sees_what_it_will_see_in_use(make):
    options = NetworkInput(align="centres", shrink=1.5, shape=(8, 12, 4), center="foreground")
    data = make(options=options)
    for n in (0, 4):
        fixed, moving = data.cases(n)
        pair = [prepare(read_image(case.image), read_image(case.label), options) for case in (fixed, moving)]
        grid, affine = frame(pair[0], options, 4), data.scans.alignment(fixed, moving)
        assert torch.equal(data[n]["fixed"], see(pair[0], grid)[0]) and torch.equal(data[n]["moving"], see(pair[1], grid, affine)[0])
        carried = resample(pair[1].labels, grid, affine)
        assert np.array_equal(data[n]["moving_labels"][0].numpy(), carried.data)


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 8)])
def test_shapes_dtypes_and_masks(make, shape):
    larger = tuple(n + 3 for n in shape)
    data = make(shapes=(shape, larger), parts=("label", "mask"), augmentation=ALWAYS)
    # an even number of voxels covers the larger scan, then a multiple of 4
    whole = tuple(-(-(n + n % 2) // 4) * 4 for n in larger)
    for n in range(2):
        sample = data[n]
        assert {name: (x.dtype, tuple(x.shape)) for name, x in sample.items()} == {
            "fixed": (torch.float32, (1, *whole)),
            "moving": (torch.float32, (1, *whole)),
            **{f"{role}_{what}": (torch.uint8, (1, *whole)) for role in ("fixed", "moving") for what in ("labels", "mask")},
            "index": (torch.int64, ()),
        }
        mask, inside = sample["fixed_mask"] > 0, sample["fixed_labels"] > 0
        # where labels meet, all of them together can outweigh the background that outweighs each
        assert bool(mask[inside].all()) and inside.sum() <= mask.sum() < 1.2 * inside.sum() and sample["fixed_mask"].max() == 1
        assert data.labels == (1, 2, 3)


def test_changes_can_be_given_instead_of_applied(make):
    same = {"shapes": [(12, 12, 8)] * 3}  # the frame's own voxels: else what is given is interpolated twice
    options = same | {"augmentation": ALWAYS, "elastic": ElasticAugmentation(1.0, 2.0, 4.0), "mirror": (0,)}
    applied, given, plain = make(**options), make(**options, changes="given"), make(**same)
    for n in range(3):
        wanted, sample = applied[n], given[n]
        for side in ("fixed", "moving"):
            assert torch.equal(sample[side], plain[n][side])
            change = sample[f"{side}_change"][None]
            torch.testing.assert_close(ops.warp(sample[side][None], change)[0], wanted[side], atol=1e-4, rtol=1e-4)
            differ = ops.warp_labels(sample[f"{side}_labels"][None], change)[0] != wanted[f"{side}_labels"]
            assert differ.float().mean() < 0.01 and bool(change.any())
    assert applied.varies and not given.varies


def test_labels_only_where_all_have_them(make, write_cases, tmp_path):
    assert set(make(parts=())[0]) == {"fixed", "moving", "index"}
    cases = read_manifest(write_cases([(10, 10, 8)] * 3)).cases
    cases = (replace(cases[0], label=None), *cases[1:])
    scans = PreparedScans(cases, NetworkInput(), tmp_path / "cache")
    data = PairDataset(scans, cases, (12, 12, 8), multiple=4)
    assert set(data[0]) == {"fixed", "moving", "index"} and data.labels == ()


def test_augmentation_is_one_matrix_for_image_and_labels(tmp_path):
    """A scan that is its own label map: where it is augmented, both must turn alike; and as the matrix says."""
    lines = ["image,label"]
    for n in range(2):
        _, labels = blobs(Grid.from_spacing((16, 16, 16)), n)
        smooth = Image(labels.data.astype(np.float32), labels.grid)
        write_image(smooth, tmp_path / f"scan{n}.nii.gz")
        write_image(labels, tmp_path / f"labels{n}.nii.gz")
        lines.append(f"scan{n}.nii.gz,labels{n}.nii.gz")
    (tmp_path / "data.csv").write_text("\n".join(lines))
    cases = read_manifest(tmp_path / "data.csv").cases
    scans = PreparedScans(cases, NetworkInput(), tmp_path / "cache")
    data = PairDataset(scans, cases, (16, 16, 16), augmentation=ALWAYS)
    plain = PairDataset(scans, cases, (16, 16, 16))
    for n in range(3):
        sample, still = data[n], plain[n]
        for role in ("fixed", "moving"):
            image, labels = sample[role], sample[f"{role}_labels"].float() / 3
            flat = (image - torch.nn.functional.avg_pool3d(image, 3, 1, 1)).abs() < 1e-5  # away from edges nearest and linear agree
            assert flat.sum() > 500 and ((image - labels).abs()[flat] < 1e-5).float().mean() > 0.999
            assert not torch.equal(image, still[role])


def test_augmentation_of_each_scan_or_of_both(make):
    """The matrix that is drawn, applied to the plain sample, gives the augmented one; the interior is compared, which no border cuts."""
    drawn = Recorded.drawn
    # aligned by shifts of whole voxels, so that plain samples are sharp
    options = NetworkInput(align="centres")
    plain = make(options=options)
    for jointly in (False, True):
        drawn.clear()
        data = make(options=options, augmentation=Recorded(1.0, 10.0, 0.05, 0.0), jointly=jointly)
        sample, still = data[0], plain[0]
        assert len(drawn) == 2 and torch.equal(*drawn) == jointly
        for role, matrix in zip(("fixed", "moving"), drawn):
            moved = ops.warp_affine(still[role][None], matrix)[0]
            inside = (slice(None), *[slice(3, -3)] * 3)
            assert (moved - sample[role])[inside].abs().max() < 1e-4
    again = next(n for n in range(data.epoch, 2 * data.epoch) if data.cases(n) == data.cases(0))
    assert not torch.equal(data[again]["fixed"], data[0]["fixed"])  # the same pair in the next epoch
    rare = make(options=options, augmentation=AffineAugmentation(probability=0.0))
    assert same(rare[0], plain[0])


def test_mirrored_pairs_are_turned_round_together(make):
    plain, turned = make(), make(mirror=(0, 2))
    found = set()
    for n in range(12):
        one, other = plain[n], turned[n]
        axes = [
            chosen
            for chosen in ((), (1,), (3,), (1, 3))
            if all(torch.equal(one[name].flip(chosen), other[name]) for name in ("fixed", "moving", "fixed_labels", "moving_labels"))
        ]
        assert len(axes) == 1  # the same for all four
        found.add(axes[0])
    assert len(found) == 4
    with pytest.raises(UsageError, match="mirror names axes from 0 to 2, but is"):
        make(mirror=(3,))


def test_mirror_and_affine_are_one_matrix(make):
    """The mirrored frame is filled through the affine that the frame would be."""
    plain, turned = make(augmentation=ALWAYS), make(augmentation=ALWAYS, mirror=(1,))
    for n in range(6):
        one, other = plain[n]["fixed"], turned[n]["fixed"]
        assert torch.allclose(one, other, atol=1e-5) or torch.allclose(one.flip(2), other, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 2])
def test_bent_scans_are_the_scan_at_bent_places(make, scale):
    """Image and labels of a bent sample are those of the plain one, pulled by the drawn field. A plain fixed scan is whole
    voxels of its scan: it has not been interpolated before."""
    elastic = ElasticAugmentation(probability=1.0, amplitude=1.5, sigma=3.0)
    plain, bent = make(scale=scale), make(scale=scale, elastic=elastic)
    for n in range(4):
        one, other = plain[n], bent[n]
        u = elastic.draw(plain.shape, pairs._torch(0, pairs._ELASTIC, n, 0))
        assert 0 < u.norm(dim=1).max() <= 1.5
        assert (ops.warp(one["fixed"][None], u)[0] - other["fixed"]).abs().max() < 1e-3
        fine = u if scale == 1 else ops.upsample(u, one["fixed_labels"].shape[1:], 2, 0.5, scale=2)
        differs = ops.warp_labels(one["fixed_labels"][None], fine)[0] != other["fixed_labels"]
        assert differs.float().mean() < 0.01  # halves between two voxels may round either way


def test_elastic_augmentation_mixes_with_the_others(make):
    everything = {"augmentation": ALWAYS, "mirror": (0,), "elastic": ElasticAugmentation(1.0), "intensity": IntensityAugmentation(1.0)}
    one, other = make(**everything), make(**everything)
    assert same(one[5], other[5]) and not same(one[5], one[6])
    assert ElasticAugmentation(0.0).draw((8, 8), torch.Generator().manual_seed(0)) is None
    with pytest.raises(ValueError, match="sigma above 0"):
        ElasticAugmentation(sigma=0.0)


def test_grey_values_change_and_the_outside_stays(make):
    plain, changed = make(), make(intensity=IntensityAugmentation(probability=1.0))
    one, other = plain[3], changed[3]
    assert not torch.equal(one["fixed"], other["fixed"]) and torch.equal(one["fixed_labels"], other["fixed_labels"])
    assert bool((other["fixed"][one["fixed"] == 0] == 0).all()) and 0 <= other["fixed"].min() and other["fixed"].max() <= 1
    assert same(changed[3], other)  # drawn by number


def test_intensity_augmentation():
    image = torch.linspace(0, 1, 1000).reshape(1, 10, 100)
    generator = torch.Generator().manual_seed(0)
    powers = []
    for _ in range(50):
        changed = IntensityAugmentation(1.0, gamma=0.5, noise=0.0).apply(image, generator)
        powers.append((changed[image > 0].log() / image[image > 0].log())[:-1].mean().log().item())
    assert -0.5 <= min(powers) < -0.3 and 0.3 < max(powers) <= 0.5
    assert IntensityAugmentation(0.0).apply(image, generator) is image
    assert (IntensityAugmentation(1.0, gamma=0.0, noise=0.1).apply(image, generator) - image).abs().max() > 1e-3
    with pytest.raises(ValueError, match="noise must be 0 or more"):
        IntensityAugmentation(noise=-1.0)


def test_finer_labels_lie_on_the_same_box(make):
    data = make(shapes=((16, 16, 16), (16, 12, 16)), options=NetworkInput(shrink=2.0), scale=2)
    sample = data[0]
    assert sample["fixed"].shape == (1, 8, 8, 8) and sample["fixed_labels"].shape == (1, 16, 16, 16)
    fixed = read_image(data.cases(0)[0].label).data
    inside = slice(2, 14) if fixed.shape[1] == 12 else slice(None)
    assert np.array_equal(sample["fixed_labels"][0, :, inside].numpy(), fixed)
    augmentation = Recorded(1.0, 10.0, 0.05, 0.08)
    turned = make(shapes=((16, 16, 16), (16, 12, 16)), options=NetworkInput(shrink=2.0), scale=2, augmentation=augmentation)[0]
    finer = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))  # frame voxel x is at 2 x + 0.5
    finer[:3, 3] = 0.5
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = Recorded.drawn[-2]
    matrix = (finer @ matrix @ finer.inverse())[:3]
    _, wanted = ops.warp_affine(torch.zeros(1, 0, 16, 16, 16), matrix, labels=sample["fixed_labels"][None])
    assert torch.equal(turned["fixed_labels"], wanted[0]) and not torch.equal(turned["fixed_labels"], sample["fixed_labels"])


def test_wide_labels_have_one_dtype(write_cases, tmp_path):
    cases = read_manifest(write_cases([(10, 10, 8)] * 2)).cases
    labels = read_image(cases[1].label)
    write_image(replace(labels, data=labels.data.astype(np.int32) * 300), cases[1].label)
    scans = PreparedScans(cases, NetworkInput(), tmp_path / "cache")
    data = PairDataset(scans, cases, (12, 12, 8), multiple=4)
    assert data.labels == (1, 2, 3, 300, 600, 900)
    assert {data[n][f"{role}_labels"].dtype for n in range(2) for role in ("fixed", "moving")} == {torch.int16}


def test_what_cannot_be(make, write_cases, tmp_path):
    with pytest.raises(InputError, match="of 1 scans no two can be paired"):
        make(shapes=((10, 10, 8),))
    with pytest.raises(UsageError, match=r"shape \(10, 12, 8\) must have 3 axes, each a multiple of 4"):
        make(options=NetworkInput(shape=(10, 12, 8)))
    with pytest.raises(InputError, match="mixes 2-D and 3-D"):
        make(shapes=((10, 10, 8), (10, 10)))
    with pytest.raises(UsageError, match="seed must be 0 or more"):
        make(seed=-1)
