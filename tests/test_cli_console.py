"""What the command line says while it works: each stage once, no library's warnings, threads that do not fight each other."""

import os
import re
import subprocess
import sys

import numpy as np

from regkit.cli import main
from regkit.commands.console import PlainLines
from regkit.geometry import Grid, Image, write_image


def test_a_stage_that_says_twice_that_it_is_done_is_told_once(capsys):
    told = PlainLines()
    for _ in range(2):
        for call in (("affine", 0.0), ("start", 1.0), ("affine", 0.5), ("affine", 1.0, "loss 0.3"), ("affine", 1.0)):
            told(*call)
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == ["start", "affine"] * 2


def test_from_scans_to_figures_without_a_stray_word(tmp_path):
    """Standard output holds the result, standard error the stages; warnings of MONAI, nibabel and the like reach nobody."""
    random = np.random.default_rng(0)
    grid = Grid.from_spacing((24, 22, 20), 2.0)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    for name, shift in (("fixed", 0.0), ("moving", 1.0)):
        far = np.linalg.norm(index - np.array(grid.shape) / 2 - shift, axis=-1)
        write_image(
            Image((200 / (1 + np.exp(far - 6)) + random.normal(0, 5, grid.shape)).astype(np.float32), grid), tmp_path / f"{name}.nii.gz"
        )
        write_image(Image((far < 6).astype(np.uint8), grid), tmp_path / f"{name}_labels.nii.gz")

    def regkit(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "regkit.cli", *arguments], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
        )

    done = regkit("register", "-f", "fixed.nii.gz", "-m", "moving.nii.gz", "-o", "out", "--threads", "1")
    assert done.returncode == 0
    stages = [re.match(r"(\w[\w ]*), \d+\.\d s", line) for line in done.stderr.splitlines()]
    assert all(stages), done.stderr
    assert len({stage[1] for stage in stages}) == len(stages) >= 7
    assert re.match(r"registered in \d+\.\d s \(cpu, 1 threads, peak \d+ MB\)\n", done.stdout)
    told = regkit("eval", "out", "--fixed-labels", "fixed_labels.nii.gz", "--moving-labels", "moving_labels.nii.gz")
    assert told.returncode == 0 and not told.stderr and "Dice" in told.stdout


def test_waiting_threads_do_not_spin(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert main(["--version"]) == 0 and os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # the user's own word counts
    assert main(["--version"]) == 0 and os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_time_is_counted_once():
    from types import SimpleNamespace

    from regkit.commands.summary import summary

    seconds = {"affine": 1.0, "refine": 2.5, "total": 4.0}
    record = SimpleNamespace(
        device="cpu", threads=2, peak_memory_mb=10.0, peak_gpu_memory_mb=None, seconds=seconds, metrics={}, warnings=["beware"]
    )
    lines = summary(SimpleNamespace(record=record))
    assert "in 4.0 s" in lines[0] and lines[-1] == "warning: beware"


def test_doctor_tests_every_op():
    from regkit.commands.doctor import op_names, self_test

    assert {name for name, _, well in self_test() if well} == set(op_names())
