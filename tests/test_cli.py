"""The command line: what it says, what it writes, how it fails, and that asking for help costs nothing."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import regkit.registration
from regkit.cli import main
from regkit.geometry import Grid, Image, load_transform, read_image, write_image
from regkit.registration.config import PRESETS
from regkit.registration.save import load_run, save_result

FILES = {"moved.nii.gz", "xfm.h5", "xfm_inverse.h5", "report.html", "run.json"}


def scan(offset: float, ndim: int = 3) -> Image:
    grid = Grid.from_spacing((24, 22, 20)[:ndim], 2.0)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    far = np.linalg.norm(index - np.array(grid.shape) / 2 - offset, axis=-1)
    texture = np.random.default_rng(0).normal(0, 5, grid.shape)
    return Image((200 / (1 + np.exp(far - 6)) + texture).astype(np.float32), grid)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two scans, and a configuration that is quick."""
    folder = tmp_path_factory.mktemp("cli")
    write_image(scan(0.0), folder / "fixed.nii.gz")
    write_image(scan(1.0), folder / "moving.nii.gz")
    return folder


@pytest.fixture(scope="module")
def result(folder):
    return regkit.registration.register(folder / "fixed.nii.gz", folder / "moving.nii.gz", threads=1)


@pytest.fixture
def registers(monkeypatch, result):
    """regkit.registration.register as it was called; the result is at hand."""
    calls = []

    def register(fixed, moving, *, progress, **options):
        calls.append({"fixed": fixed, "moving": moving} | options)
        for stage in ("affine", "refine"):
            progress(stage, 0.0)
            progress(stage, 1.0, "loss 0.5")
        return result

    monkeypatch.setattr(regkit.registration, "register", register)
    return calls


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def python(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)


def test_help_imports_nothing_heavy():
    heavy = "{'torch', 'numpy', 'scipy', 'nibabel', 'SimpleITK', 'monai', 'matplotlib', 'jinja2', 'rich.progress'}"
    code = f"import sys; from regkit.cli import main; assert main(['register', '--help']) == 0; assert not {heavy} & set(sys.modules)"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "--fixed-mask" in done.stdout and "--print-config" in done.stdout


def test_verbs_and_version(capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in ("register", "apply", "eval", "models", "doctor", "demo"))
    assert run("--version") == 0
    assert capsys.readouterr().out == f"regkit {regkit.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("transmogrify",),
        ("register", "--bogus"),
        ("register", "-f"),
        ("register", "--seed", "x", "-f", "a", "-m", "b", "-o", "c"),
        ("apply",),
        ("eval",),
    ],
)
def test_bad_usage_is_2(arguments):
    assert run(*arguments) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-f", "a.nii"), "needs -m MOVING, -o OUT"),
        (("-f", "a.nii", "-m", "b.nii", "-o", "o", "--preset", "mr-brian"), "did you mean mr-brain?"),
        (("-f", "a.nii", "-m", "b.nii", "-o", "o", "--threads", "0"), "at least 1"),
        (("-f", "a.nii", "-m", "b.nii", "-o", "file.txt"), "is a file"),
        (("-f", "a.nii", "-m", "b.nii", "-o", "file.txt/out"), "not a directory"),
        (("-f", "a.nii", "-m", "b.nii", "-o", "o", "--config", "none.toml"), "none.toml"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("x")
    assert run("register", *arguments) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and error.startswith("regkit: ")


def test_missing_scan_is_3(tmp_path, folder):
    done = python(
        "-m", "regkit.cli", "register", "-f", tmp_path / "none.nii.gz", "-m", folder / "moving.nii.gz", "-o", tmp_path / "out", "--quiet"
    )
    assert done.returncode == 3 and done.stderr.count("\n") == 1 and "none.nii.gz" in done.stderr and not done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 4),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9e12 bytes"), 4),
        (KeyboardInterrupt(), 130),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_breaking_off_leaves_nothing(tmp_path, monkeypatch, capsys, registers, folder, error, code, late):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("regkit.report.write_report" if late else "regkit.registration.register", fail)
    assert run("register", "-f", folder / "fixed.nii.gz", "-m", folder / "moving.nii.gz", "-o", tmp_path / "out", "--quiet") == code
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_bugs_are_not_hidden(tmp_path, monkeypatch, registers, folder):
    def fail(*_, **__):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(regkit.registration, "register", fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run("register", "-f", folder / "fixed.nii.gz", "-m", folder / "moving.nii.gz", "-o", tmp_path / "out")


def test_options_reach_register(tmp_path, capsys, registers):
    (tmp_path / "mine.toml").write_text('preset = "ct-lung"\n')
    options = ("--fixed-mask", "fm.nii", "--moving-mask", "mm.nii", "--device", "cpu", "--threads", "3", "--seed", "5", "--header", "qform")
    assert (
        run("register", "--fixed", "f.nii", "--moving", "m.nii", "--out", tmp_path / "out", "--config", tmp_path / "mine.toml", *options)
        == 0
    )
    (call,) = registers
    assert call["config"] == PRESETS["ct-lung"]
    assert [str(call[name]) for name in ("fixed", "moving", "fixed_mask", "moving_mask")] == ["f.nii", "m.nii", "fm.nii", "mm.nii"]
    assert (call["device"], call["threads"], call["seed"], call["header"]) == ("cpu", 3, 5, "qform")
    told = capsys.readouterr()
    assert "report.html" in told.out and told.err.count("\n") == 3 and told.err.startswith("affine, 0.0 s: loss 0.5\n")


def test_quiet_is_silent(tmp_path, capsys, registers):
    assert run("register", "-f", "f.nii", "-m", "m.nii", "-o", tmp_path / "out", "--quiet") == 0
    told = capsys.readouterr()
    assert not told.out and not told.err


def test_conflicting_presets(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text('preset = "ct-lung"\n')
    assert run("register", "--preset", "xray", "--config", tmp_path / "mine.toml", "--print-config") == 2
    assert "disagree" in capsys.readouterr().err


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_print_config_is_read_back(tmp_path, capsys, preset):
    assert run("register", "--preset", preset, "--print-config") == 0
    printed = capsys.readouterr().out
    (tmp_path / "printed.toml").write_text(printed)
    assert run("register", "--config", tmp_path / "printed.toml", "--print-config") == 0
    assert capsys.readouterr().out == printed and f'preset = "{preset}"' in printed


def test_saved_files(tmp_path, result, folder):
    out = save_result(result, tmp_path / "a/b/out")
    assert {file.name for file in out.iterdir()} == FILES and [file.name for file in out.parent.iterdir()] == ["out"]
    info = json.loads((out / "run.json").read_text())
    assert set(info) >= {"config", "versions", "inputs", "seed", "seconds", "peak_memory_mb", "metrics", "grids", "warnings"}
    assert info["inputs"]["fixed"]["path"].endswith("fixed.nii.gz") and len(info["inputs"]["fixed"]["sha256"]) == 64
    np.testing.assert_array_equal(read_image(out / "moved.nii.gz").data, result.moved.data)
    saved = load_run(out)
    assert saved.fixed_grid == result.fixed.grid and saved.moving_grid == result.moving.grid
    points = result.fixed.grid.to_world(np.random.default_rng(0).uniform(2, 18, (20, 3)))
    np.testing.assert_allclose(load_transform(out / "xfm.h5").apply(points), result.transform.apply(points), atol=1e-3)
    np.testing.assert_allclose(saved.inverse.apply(points), result.inverse.apply(points), atol=1e-3)


def test_saving_again_replaces_and_keeps_strangers(tmp_path, result):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("run.json", "moved.tif", "notes.txt"):
        (out / name).write_text("old")
    save_result(result, out)
    assert {file.name for file in out.iterdir()} == FILES | {"notes.txt"} and (out / "notes.txt").read_text() == "old"
    assert json.loads((out / "run.json").read_text())["format"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_unwritable_place_is_refused_before_work(tmp_path, monkeypatch, registers, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert run("register", "-f", "f.nii", "-m", "m.nii", "-o", tmp_path / "out") == 2
    assert not registers and "may write" in capsys.readouterr().err


def test_2d_result(tmp_path, folder):
    write_image(Image(scan(0.0, 2).data.clip(0, 255).astype(np.uint8), scan(0.0, 2).grid), tmp_path / "f.png")
    write_image(Image(scan(1.0, 2).data.clip(0, 255).astype(np.uint8), scan(1.0, 2).grid), tmp_path / "m.png")
    assert run("register", "-f", tmp_path / "f.png", "-m", tmp_path / "m.png", "-o", tmp_path / "out", "--threads", 1, "--quiet") == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES - {"moved.nii.gz"} | {"moved.tif"}
    assert read_image(tmp_path / "out/moved.tif").data.dtype == np.float32


def test_doctor(capsys):
    assert run("doctor") == 0
    shown = capsys.readouterr().out
    parts = (
        "torch",
        "instruction set",
        "threads",
        "CPU: cpp; GPU",
        "why not cuda",
        "TRITON_INTERPRET",
        "not measured yet",
        "agrees with the reference",
    )
    assert all(part in shown for part in parts)


def test_doctor_tells_which_backend_was_faster(capsys, monkeypatch):
    from regkit.ops import gpu_default

    monkeypatch.setitem(gpu_default.FASTER, "warp", "triton")
    monkeypatch.setattr(gpu_default, "MEASURED", "results.json (some GPU)")
    assert run("doctor") == 0
    shown = capsys.readouterr().out
    assert "triton, the faster one" in shown and "the faster of those compared in results.json (some GPU)" in shown


def test_doctor_names_the_op_that_lacks_the_wanted_backend(capsys, monkeypatch):
    from regkit.ops import cuda

    monkeypatch.setattr(cuda, "built", lambda: False)
    monkeypatch.setenv("REGKIT_BACKEND", "cuda")
    assert run("doctor") == 1
    assert "regkit.ops.warp has no cuda backend" in capsys.readouterr().out


def test_doctor_finds_a_broken_op(capsys, monkeypatch):
    import torch

    from regkit import ops

    monkeypatch.setattr(ops, "warp", lambda image, u: (image + u[:, :2]) * torch.rand(()))
    assert run("doctor") == 1
    assert "differs from the reference" in capsys.readouterr().out


def test_demo_needs_both_scans(capsys):
    assert run("demo", "--fixed", "a.nii") == 2
    assert "both --fixed and --moving" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_bug():
    """regkit ... | head: no traceback, and the exit code that a shell gives to what SIGPIPE ends."""
    here, there = os.pipe()
    os.close(here)
    try:
        left = subprocess.run([sys.executable, "-m", "regkit.cli", "--version"], stdout=there, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(there)
    assert (left.returncode, left.stderr) == (141, "")
