"""regkit eval --learn2reg: a made task, its metrics.json held to formulas written out here; and its messages."""

import json

import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from regkit.cli import main

SHAPE = (20, 16, 18)
SPACING = (1.5, 2.0, 2.5)
LABELS = [1, 2, 3]
PAIRS = (((1, 0), (1, 1)), ((2, 0), (2, 1)), ((3, 0), (3, 1)), ((1, 1), (2, 0)), ((2, 0), (3, 0)))


def scan(subject, modality):
    return f"Toy_{subject:04d}_{modality:04d}"


def key(pair):
    return "<--".join(f"{subject:04d}_{modality:04d}" for subject, modality in pair)


def save(array, path):
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*SPACING, 1])), path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, fields by case): five pairs; 3 is absent in 0002_0001, which 0002_0000 is paired with; 0003 has no mask."""
    folder = tmp_path_factory.mktemp("learn2reg")
    random = np.random.default_rng(0)
    for subject in (1, 2, 3):
        for modality in (0, 1):
            name = scan(subject, modality)
            smooth = gaussian_filter(np.random.default_rng(subject).normal(size=SHAPE), 3)
            labels = np.digitize(smooth / smooth.std(), [0.2, 0.8, 1.4]).astype(np.uint8)
            labels = np.roll(labels, modality, axis=0)
            labels[labels == (3 if (subject, modality) == (2, 1) else 255)] = 0
            save(labels, folder / "labelsTr" / f"{name}.nii.gz")
            save(np.zeros(SHAPE, np.float32), folder / "imagesTr" / f"{name}.nii.gz")
            if subject != 3:
                save((smooth > 0).astype(np.uint8), folder / "masksTr" / f"{name}.nii.gz")
            for directory in ("keypointsTr", "keypoints00000001Tr"):
                (folder / directory).mkdir(exist_ok=True)
                points = random.uniform(1, np.array(SHAPE) - 2, (7, 3))
                np.savetxt(folder / directory / f"{name}.csv", points, delimiter=",")
    fields = {}
    for number, pair in enumerate(PAIRS):
        (fixed, ff), (moving, mm) = pair
        field = np.stack([gaussian_filter(random.normal(size=SHAPE), 2) for _ in range(3)], -1)
        field = fields[key(pair)] = (field / field.std() * (0.5 + number)).astype(np.float32)
        name = f"disp_{fixed:04d}_{moving:04d}" if number < 2 else f"disp_{fixed:04d}_{ff:04d}_{moving:04d}_{mm:04d}"
        (folder / "fields").mkdir(exist_ok=True)
        if number == 1:
            np.savez(folder / "fields" / f"{name}.npz", field)
        else:
            save(field, folder / "fields" / f"{name}.nii.gz")
    methods = [{"name": "LogJacDetStd", "metric": "sdlogj"}, {"name": "DSC", "metric": "dice", "labels": LABELS}]
    methods += [{"name": "HD95", "metric": "hd95", "labels": LABELS}, {"name": "TRE_kp", "metric": "tre", "dest": "keypoints"}]
    path = {case: f"./imagesTr/{scan(*case)}.nii.gz" for pair in PAIRS for case in pair}
    config = {"task_name": "Toy", "evaluation_methods": methods, "expected_shape": [*SHAPE, 3], "masked_evaluation": True}
    config["eval_pairs"] = [{"fixed": path[fixed], "moving": path[moving]} for fixed, moving in PAIRS]
    (folder / "config.json").write_text(json.dumps(config))
    dataset = {"name": "Toy", "tensorImageShape": {"0": list(SHAPE)}, "registration_val": config["eval_pairs"][:1]}
    (folder / "Toy_dataset.json").write_text(json.dumps(dataset))
    return folder, fields


@pytest.fixture(scope="module")
def found(made):
    folder, _ = made
    output = folder / "out" / "metrics.json"
    command = ["eval", "--learn2reg", folder / "config.json", "--fields", folder / "fields", "--data", folder, "-o", output]
    assert main([str(part) for part in command]) == 0
    return json.loads(output.read_text())


def labels_of(folder, case):
    return nibabel.load(folder / "labelsTr" / f"{scan(*case)}.nii.gz").get_fdata()


def warped(moving, field):
    """Nearest voxel, 0 outside the outermost centres, by loops."""
    out = np.zeros(SHAPE)
    for at in np.ndindex(SHAPE):
        place = at + field[at].astype(np.float64)
        if (place >= 0).all() and (place <= np.array(SHAPE) - 1).all():
            out[at] = moving[tuple(np.floor(place + 0.5).astype(int))]
    return out


def test_dice_case_by_case(made, found):
    folder, fields = made
    for pair in PAIRS:
        fixed, moving = (labels_of(folder, case) for case in pair)
        moved = warped(moving, fields[key(pair)])
        expected = []
        for label in LABELS:
            a, b = fixed == label, moved == label
            absent = not a.any() or not (moving == label).any()
            expected.append(np.nan if absent else 2 * (a & b).sum() / (a.sum() + b.sum()))
        case = found["cases"][key(pair)]["DSC"]
        np.testing.assert_allclose(case["detailed"], expected, atol=1e-12)
        assert case["mean"] == pytest.approx(np.nanmean(expected))
    assert np.isnan(found["cases"]["0002_0000<--0002_0001"]["DSC"]["detailed"][2])


def test_hd95_case_by_case(made, found):
    from regkit.metrics.area_hausdorff import area_hd95  # held to loops by its own tests

    folder, fields = made
    for pair in PAIRS:
        fixed, moving = (labels_of(folder, case) for case in pair)
        moved = warped(moving, fields[key(pair)])
        expected = [
            area_hd95(fixed == label, moved == label) if (fixed == label).any() and (moving == label).any() else np.nan for label in LABELS
        ]
        np.testing.assert_allclose(found["cases"][key(pair)]["HD95"]["detailed"], expected)


def test_sdlogj_and_folds_case_by_case(made, found):
    folder, fields = made
    for pair in PAIRS:
        field = fields[key(pair)].astype(np.float64)
        gradient = np.stack([np.stack(np.gradient(field[..., c], axis=(0, 1, 2)), -1) for c in range(3)], -2)
        determinant = np.linalg.det(gradient + np.eye(3))
        mask = folder / "masksTr" / f"{scan(*pair[0])}.nii.gz"
        chosen = nibabel.load(mask).get_fdata() == 1 if mask.exists() else np.ones(SHAPE, bool)
        inner = (slice(2, -2),) * 3
        shifted = np.log(np.clip(determinant + 3, 1e-9, 1e9))[inner][chosen[inner]]
        case, ours = found["cases"][key(pair)], found["regkit"]["cases"][key(pair)]
        assert case["LogJacDetStd"]["mean"] == case["LogJacDetStd"]["detailed"] == pytest.approx(shifted.std(), abs=1e-7)
        assert ours["folds"]["mean"] == pytest.approx((determinant[chosen] <= 0).mean())
        kept = determinant[chosen & (determinant > 0)]
        assert ours["sdlogj"]["mean"] == pytest.approx(np.log(kept).std(), abs=1e-6)
        assert case["num_foldings"]["mean"] == 0
    assert found["regkit"]["cases"][key(PAIRS[4])]["folds"]["mean"] > 0.05  # and num_foldings is 0 there, too


def test_tre_case_by_case(made, found):
    folder, fields = made
    for pair in PAIRS:
        modalities = pair[0][1], pair[1][1]
        directory = "keypointsTr" if modalities in ((0, 1), (0, 0)) else "keypoints00000001Tr"
        fixed, moving = (np.loadtxt(folder / directory / f"{scan(*case)}.csv", delimiter=",") for case in pair)
        for name, part, order in (("TRE_kp", "cases", 3), ("TRE_kp_linear", "regkit", 1)):
            u = np.array([map_coordinates(fields[key(pair)][..., c].astype(float), fixed.T, order=order) for c in range(3)]).T
            expected = np.sqrt((((fixed + u - moving) * SPACING) ** 2).sum(1))
            case = (found[part] if part == "cases" else found["regkit"]["cases"])[key(pair)][name]
            np.testing.assert_allclose(case["detailed"], expected, rtol=1e-6)
            assert case["mean"] == pytest.approx(expected.mean())


def test_aggregates(found):
    means = {name: [case[name]["mean"] for case in found["cases"].values()] for name in ("LogJacDetStd", "DSC", "HD95", "TRE_kp")}
    for name, share in (("LogJacDetStd", 0.7), ("DSC", 0.3), ("HD95", 0.3), ("TRE_kp", 0.7)):
        values = np.sort(means[name])
        place = share * (len(values) - 1)
        low = int(place)
        percentile = values[low] + (place - low) * (values[low + 1] - values[low])
        assert found["aggregates"][name]["30"] == pytest.approx(percentile), name
        assert found["aggregates"][name]["mean"] == pytest.approx(sum(values) / len(values))
        assert found["aggregates"][name]["std"] == pytest.approx(np.sqrt(((values - values.mean()) ** 2).mean()))
    ours = found["regkit"]["aggregates"]
    assert ours["HD95"]["worst30"] == pytest.approx(np.quantile(means["HD95"], 0.7)) and ours["HD95"]["n"] == len(PAIRS)
    assert ours["DSC"]["worst30"] == found["aggregates"]["DSC"]["30"]
    assert ours["folds"]["mean"] == pytest.approx(np.mean([case["folds"]["mean"] for case in found["regkit"]["cases"].values()]))


def test_structure(found):
    assert list(found) == ["name", "aggregates", "cases", "eval_version", "regkit"]
    assert found["name"] == "Toy" and found["eval_version"] == "2.0"
    assert list(found["cases"]) == [key(pair) for pair in PAIRS]
    assert set(found["aggregates"]) == {"LogJacDetStd", "DSC", "HD95", "TRE_kp"}
    assert set(next(iter(found["cases"].values()))) == {"LogJacDetStd", "num_foldings", "DSC", "HD95", "TRE_kp"}


def run(folder, *more, config="config.json", fields="fields"):
    return main(["eval", "--learn2reg", str(folder / config), "--fields", str(folder / fields), *map(str, more)])


def test_dataset_json_and_what_is_said(made, found, capsys):
    """A dataset.json is measured by what lies in the data; labels are those of the fixed maps; there is no mask."""
    folder, _ = made
    assert run(folder, "--json", config="Toy_dataset.json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert list(shown["aggregates"]) == ["LogJacDetStd", "DSC", "HD95", "TRE_kp"]
    (case,) = shown["cases"].values()
    for name in ("DSC", "HD95", "TRE_kp"):
        assert case[name] == found["cases"]["0001_0000<--0001_0001"][name]
    assert case["LogJacDetStd"] != found["cases"]["0001_0000<--0001_0001"]["LogJacDetStd"]


def test_tables_and_the_warning_of_a_mask(made, capsys):
    folder, _ = made
    assert run(folder) == 0
    shown = capsys.readouterr()
    assert all(part in shown.out for part in ("Toy", "DSC", "folds", "HD95_mm", "worst 30 %", "0001_0000"))
    assert "masksTr/Toy_0003_0000.nii.gz is missing" in shown.err


def test_fields_of_2020(made, tmp_path, capsys):
    """Half resolution, named without modalities: measured as its upsampling, with a word on the name."""
    from scipy.ndimage import zoom

    folder, fields = made
    for pair in PAIRS:
        half = np.stack([zoom(fields[key(pair)][..., c], 0.5, order=2) for c in range(3)]).astype(np.float16)
        full = np.stack([zoom(component.astype(np.float32), 2, order=2) for component in half], -1)
        (tmp_path / "half").mkdir(exist_ok=True)
        (tmp_path / "full").mkdir(exist_ok=True)
        (fixed, ff), (moving, mm) = pair
        np.savez(tmp_path / "half" / f"disp_{fixed:04d}_{moving:04d}.npz", half)
        np.savez(tmp_path / "full" / f"disp_{fixed:04d}_{ff:04d}_{moving:04d}_{mm:04d}.npz", full)
    results = []
    for name in ("half", "full"):
        assert run(folder, "--json", "--fields", tmp_path / name) == 0
        shown = capsys.readouterr()
        results.append(json.loads(shown.out))
        assert ("by the name disp_0001_0001_0002_0000 only" in shown.err) == (name == "half")
    assert json.dumps(results[0]) == json.dumps(results[1])


def change(folder, tmp_path, entry, value):
    config = json.loads((folder / "config.json").read_text())
    config.pop(entry, None) if value is None else config.update({entry: value})
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("entry", "value", "told"),
    [
        ("expected_shape", None, "has no entry 'expected_shape'"),
        ("expected_shape", [20, 16, 18], r"it must be [X, Y, Z, 3]"),
        ("expected_shape", [20, 16, 19, 3], "but this task needs (X, Y, Z, 3) = (20, 16, 19, 3) float32"),
        ("eval_pairs", [], "no pairs"),
        ("eval_pairs", [{"fixed": "a.nii.gz", "moving": "b.nii.gz"}], "NAME_SSSS_MMMM.nii.gz"),
        ("eval_pairs", [{"fixed": "./imagesTr/Toy_0001_0000.nii.gz", "moving": "Toy_0007_0000.nii.gz"}], "lacks disp_0001_0000_0007_0000"),
        ("eval_pairs", 2 * [{"fixed": "Toy_0001_0000.nii.gz", "moving": "Toy_0001_0001.nii.gz"}], "comes twice"),
        ("evaluation_methods", [{"name": "X", "metric": "ssim"}], "metric 'ssim' of X is none of"),
        ("evaluation_methods", [{"name": "X", "metric": "tre", "dest": "landmarks"}], "no such file"),
        ("evaluation_methods", 2 * [{"name": "X", "metric": "sdlogj"}], "X comes twice"),
        ("evaluation_methods", [{"name": "X", "metric": "dice", "labels": ["a"]}], "is not built as"),
    ],
)  # fmt: skip
def test_mistakes_in_the_configuration(made, tmp_path, capsys, entry, value, told):
    folder, _ = made
    config = change(folder, tmp_path, entry, value)
    assert run(folder, "--data", folder, "-o", tmp_path / "out" / "metrics.json", config=config) == 3
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_bad_field_is_named_before_the_work(made, tmp_path, capsys):
    folder, fields = made
    for path in (folder / "fields").iterdir():
        (tmp_path / path.name).symlink_to(path)
    last = tmp_path / "disp_0002_0000_0003_0000.nii.gz"
    last.unlink()
    save(fields[key(PAIRS[4])][:, :, :-1], last)
    (tmp_path / "metrics.json").write_text("old")
    assert run(folder, "--fields", tmp_path, "-o", tmp_path / "metrics.json") == 3
    error = capsys.readouterr().err
    assert f"{last}: has shape (20, 16, 17, 3) and dtype float32" in error and error.count("\n") == 1
    assert (tmp_path / "metrics.json").read_text() == "old"
    last.unlink()
    assert run(folder, "--fields", tmp_path) == 3
    assert "lacks disp_0002_0000_0003_0000.nii.gz of 5 fields" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([], 2, "regkit eval needs OUT"),
        (["out", "--fields", "fields"], 2, "--fields goes with --learn2reg"),
        (["out", "-o", "x.json"], 2, "--output goes with --learn2reg"),
        (["out", "--learn2reg", "config.json", "--fields", "fields"], 2, "leave out OUT (out)"),
        (["--learn2reg", "config.json", "--fields", "fields", "--fixed-labels", "f.nii.gz"], 2, "leave out --fixed-labels"),
        (["--learn2reg", "config.json", "--fields", "fields", "--header", "sform"], 2, "leave out --header sform"),
        (["--learn2reg", "config.json"], 2, "needs --fields DIR"),
        (["--learn2reg", "config.json", "--fields", "fields", "-o", "."], 2, "is a directory"),
        (["--learn2reg", "no.json", "--fields", "fields"], 3, "no.json cannot be read"),
        (["--learn2reg", "keypointsTr/Toy_0001_0000.csv", "--fields", "fields"], 3, "is not JSON"),
        (["--learn2reg", "config.json", "--fields", "none"], 3, "none is not a directory"),
        (["--learn2reg", "config.json", "--fields", "fields", "--data", "fields"], 3, "no such file"),
    ],
)
def test_mistakes_on_the_command_line(made, capsys, monkeypatch, arguments, code, told):
    monkeypatch.chdir(made[0])
    assert main(["eval", *arguments]) == code
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
