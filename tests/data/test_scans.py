"""Prepared scans: the cache on disk and in memory, and what lies in it."""

import os
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import regkit.data.scans
from regkit.data import PreparedScans, read_manifest
from regkit.errors import InputError, UsageError
from regkit.geometry import Affine, Grid, Image, read_image, resample, write_image
from regkit.models.input import NetworkInput, alignment, prepare


@pytest.fixture
def cases(write_cases):
    return read_manifest(write_cases([(12, 10, 8), (10, 10, 9)], parts=("label", "mask"))).cases


@pytest.fixture
def prepared(monkeypatch):
    """The names of the cases that were prepared, not read from the cache."""
    made = []
    whole = regkit.data.scans.prepare
    monkeypatch.setattr(regkit.data.scans, "prepare", lambda scan, *rest: made.append(scan.name) or whole(scan, *rest))
    return made


def test_holds_what_prepare_gives(cases, tmp_path):
    options = NetworkInput(shrink=1.5)
    scans = PreparedScans(cases, options, tmp_path / "cache")
    for case in cases:
        wanted = prepare(read_image(case.image), read_image(case.label), options)
        found = scans[case]
        assert found.grid == wanted.image.grid == found.prepared.labels.grid
        assert torch.equal(found.image, wanted.image.tensor()) and np.array_equal(found.prepared.labels.data, wanted.labels.data)
        mask = resample(read_image(case.mask), found.grid, labels="majority")
        assert found.channels == ("labels", "mask") and found.maps.dtype == torch.uint8
        assert np.array_equal(found.maps[0, 1].numpy(), mask.data)
    assert scans.labels() == (1, 2, 3)


def test_is_made_once_and_again_when_something_changed(cases, tmp_path, prepared):
    options = NetworkInput()
    PreparedScans(cases, options, tmp_path / "cache").fill(threads=2)
    assert sorted(prepared) == ["case scan0", "case scan1"]
    first = PreparedScans(cases, options, tmp_path / "cache")[cases[0]].image.clone()
    # what the network sees of a prepared scan does not change it
    PreparedScans(cases, replace(options, shape=(8, 8, 8), center="foreground"), tmp_path / "cache").fill()
    assert len(prepared) == 2
    PreparedScans(cases, replace(options, shrink=2.0), tmp_path / "cache").fill()
    assert len(prepared) == 4
    scan = read_image(cases[0].image)
    write_image(replace(scan, data=scan.data[::-1].copy()), cases[0].image)
    os.utime(cases[0].image, ns=(1, 1))
    changed = PreparedScans(cases, options, tmp_path / "cache")
    changed.fill()
    assert len(prepared) == 5 and torch.equal(changed[cases[0]].image, first.flip(2))


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b"", lambda b: b"x" * len(b)])
def test_broken_file_is_made_again_and_said(cases, tmp_path, prepared, damage):
    first = PreparedScans(cases, NetworkInput(), tmp_path / "cache")[cases[0]].image.clone()
    (file,) = (tmp_path / "cache" / "scans").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match=f"{file.name} is broken .* made again"):
        again = PreparedScans(cases, NetworkInput(), tmp_path / "cache")[cases[0]]
    assert torch.equal(again.image, first) and len(prepared) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PreparedScans(cases, NetworkInput(), tmp_path / "cache")[cases[0]]


def test_least_recently_used_scans_leave_memory(write_cases, tmp_path, prepared):
    cases = read_manifest(write_cases([(10, 10, 10)] * 3)).cases
    scans = PreparedScans(cases, NetworkInput(), tmp_path / "cache", limit_mb=2.5 * 5000 / 1e6)  # 4 bytes and 1 a voxel
    for case in (cases[0], cases[1], cases[0], cases[2]):
        scans[case]
    assert list(scans._open) == [cases[0], cases[2]]
    assert len(prepared) == 3
    scans[cases[1]]
    assert len(prepared) == 3


def test_other_processes_get_no_copy(cases, tmp_path):
    scans = PreparedScans(cases, NetworkInput(), tmp_path / "cache")
    scans.fill()
    whole = scans[cases[0]].image
    sent = pickle.dumps(scans)
    assert len(sent) < 3000 < whole.numel() * 4
    assert torch.equal(pickle.loads(sent)[cases[0]].image, whole)
    maps = open("/proc/self/maps").read() if os.path.exists("/proc/self/maps") else None
    assert maps is None or str(tmp_path / "cache") in maps


@pytest.mark.parametrize("align", ["header", "centres", "masses"])
def test_alignment_is_the_models_own(cases, tmp_path, align):
    options = NetworkInput(align=align)
    scans = PreparedScans(cases, options, tmp_path / "cache")
    wanted = alignment(scans[cases[0]].prepared, scans[cases[1]].prepared, options)
    assert np.array_equal(scans.alignment(*cases).matrix, wanted.matrix)


def test_affine_registrations_are_kept(cases, tmp_path, monkeypatch):
    asked = []

    def register(fixed, moving, options):
        asked.append((fixed.image.name, moving.image.name))
        return Affine(np.diag([1.1, 0.9, 1 / 3, 1.0]) if fixed.image.name == "case scan0" else np.eye(4))

    monkeypatch.setattr(regkit.data.scans, "alignment", register)
    for _ in range(2):
        scans = PreparedScans(cases, NetworkInput(align="affine"), tmp_path / "cache")
        assert np.array_equal(scans.alignment(*cases).matrix, np.diag([1.1, 0.9, 1 / 3, 1.0]))
        assert np.array_equal(scans.alignment(*cases[::-1]).matrix, np.eye(4))
    assert asked == [("case scan0", "case scan1"), ("case scan1", "case scan0")]


def test_labels_of_a_finer_grid(write_cases, tmp_path):
    (case,) = read_manifest(write_cases([(12, 10, 8)])).cases
    found = PreparedScans([case], NetworkInput(shrink=2.0), tmp_path / "cache", label_scale=2)[case]
    assert found.grid.shape == (6, 6, 4) and found.channels == () and found.maps is None
    labels = read_image(case.label)
    # 10 voxels become 2 x 6, which reach one voxel further on either side
    assert torch.equal(found.fine[0, 0, :, 1:-1], torch.from_numpy(labels.data.copy())) and not found.fine[..., [0, -1], :].any()
    assert found.values == (1, 2, 3)


def test_unusable_files(cases, tmp_path):
    scan = read_image(cases[0].image)

    def message(**changes):
        with pytest.raises(InputError) as caught:
            PreparedScans([replace(cases[0], **changes)], NetworkInput(), tmp_path / "cache").fill()
        return str(caught.value)

    (tmp_path / "text.nii.gz").write_text("no scan")
    assert "case scan0" in message(image=tmp_path / "text.nii.gz") and "text.nii.gz" in message(image=tmp_path / "text.nii.gz")
    assert "scan0, labels: " in message(label=cases[0].image) and "holds fractions" in message(label=cases[0].image)
    write_image(Image(np.zeros(scan.grid.shape, np.float32), scan.grid), tmp_path / "flat.nii.gz")
    assert "scan0: every voxel is 0.0" in message(image=tmp_path / "flat.nii.gz")
    write_image(Image(np.ones((5, 5), np.uint8), Grid.from_spacing((5, 5))), tmp_path / "flat.png")
    assert "scan0, labels: is 2-D but its scan is 3-D" in message(label=tmp_path / "flat.png")
    assert "no such" in message(image=tmp_path / "gone.nii.gz").lower()
    with pytest.raises(UsageError, match="label_scale must be at least 1"):
        PreparedScans(cases, NetworkInput(), tmp_path, label_scale=0)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        PreparedScans(cases, NetworkInput(), tmp_path / "file").fill()


def test_float_and_wide_labels(cases, tmp_path):
    labels = read_image(cases[0].label)
    for data, dtype in (
        (labels.data.astype(np.float32), torch.uint8),
        (labels.data.astype(np.int64) * 500, torch.int16),
        (labels.data.astype(np.float64) * 50000, torch.int32),
    ):
        write_image(replace(labels, data=data), tmp_path / "other.nii.gz")
        case = replace(cases[0], label=tmp_path / "other.nii.gz", mask=None)
        found = PreparedScans([case], NetworkInput(), tmp_path / "cache")[case]
        assert found.maps.dtype == dtype and np.array_equal(found.maps[0, 0].numpy(), data)
