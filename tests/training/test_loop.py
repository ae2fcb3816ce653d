"""The engine: stages, freezing, logs, resuming to the bit, several processes, and what stops it."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from regkit.errors import InputError, TrainingError, UsageError
from regkit.training import checkpoints
from regkit.training.checkpoints import Checkpoints, State
from regkit.training.logs import Log
from tests.training import toy

ROOT = Path(__file__).parents[2]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "last.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def events(folder: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def process(folder: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "-m", "tests.training.toy", str(folder), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_it_learns_logs_validates_and_leaves_weights(tmp_path):
    toy.run(tmp_path, steps=(20, 40), dropout=0.0)
    errors = [event["error"] for event in events(tmp_path, "validation")]
    assert errors[-1] < 0.5 * errors[0]
    train = events(tmp_path, "train")
    assert [event["step"] for event in train] == sorted({*range(2, 61, 2), *range(3, 61, 3)} | {20, 60})
    assert all(event["loss"] == pytest.approx(event["square"] + event["absolute"]) for event in train)
    assert {event["stage"] for event in train} == {1, 2}
    names = {path.name for path in tmp_path.iterdir()}
    assert {"log.jsonl", "tensorboard", "checkpoints", "model.safetensors", "last.safetensors"} <= names
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-00000057.pt", "step-00000060.pt", "best.pt"}
    assert any((tmp_path / "tensorboard").iterdir())


def test_weights_to_use_come_from_the_last_stage(tmp_path):
    with pytest.raises(TrainingError):
        toy.run(tmp_path, spoilt=7)  # in the second stage, before its first validation
    assert (tmp_path / "checkpoints" / "best.pt").exists() and not (tmp_path / "model.safetensors").exists()


def test_stages_train_what_they_should(tmp_path):
    toy.seed_everything(0, False)
    still = toy.Toy().network
    trained = toy.run(tmp_path, steps=(2, 0)).network
    assert torch.equal(still[0].weight, trained[0].weight) and not torch.equal(still[2].weight, trained[2].weight)
    frozen = toy.run(tmp_path / "frozen", steps=(2, 3)).network  # the second stage's first three steps leave the last layer alone
    assert torch.equal(frozen[2].weight, trained[2].weight) and not torch.equal(frozen[0].weight, trained[0].weight)


@pytest.mark.parametrize("kill_at", [5, 10])
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, kill_at):
    toy.run(tmp_path / "unbroken")
    died = process(tmp_path / "killed", f"kill_at={kill_at}")
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not (tmp_path / "killed" / "last.safetensors").exists()
    toy.run(tmp_path / "killed", resume=True)
    assert same(weights(tmp_path / "unbroken"), weights(tmp_path / "killed"))
    for kind in ("train", "validation"):
        assert events(tmp_path / "unbroken", kind) == events(tmp_path / "killed", kind)


def test_two_processes_are_one_with_the_batch_of_both(tmp_path):
    two = process(tmp_path / "two", "batch=2", "dropout=0", launcher=("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"))
    assert two.returncode == 0, two.stderr
    one = toy.run(tmp_path / "one", batch=4, dropout=0.0)
    for name, tensor in one.network.state_dict().items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], tensor, rtol=1e-4, atol=1e-6)
    assert len(events(tmp_path / "two", "train")) == len(events(tmp_path / "one", "train"))


def test_accumulated_batches_are_one_large_batch(tmp_path):
    one = toy.run(tmp_path / "one", batch=4, dropout=0.0).network.state_dict()
    parts = toy.run(tmp_path / "parts", batch=2, accumulate=2, dropout=0.0).network.state_dict()
    for name in one:
        torch.testing.assert_close(parts[name], one[name], rtol=1e-4, atol=1e-6)


def test_workers_prepare_the_same_samples(tmp_path):
    toy.run(tmp_path / "here")
    toy.run(tmp_path / "workers", workers=2)
    assert same(weights(tmp_path / "here"), weights(tmp_path / "workers"))


def test_seeds(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        toy.run(tmp_path / name, seed=seed, deterministic=True)
    torch.use_deterministic_algorithms(False)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_keeps_float32_weights(tmp_path, precision):
    network = toy.run(tmp_path, steps=(20, 40), dropout=0.0, precision=precision).network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    errors = [event["error"] for event in events(tmp_path, "validation")]
    assert errors[-1] < 0.5 * errors[0]


@pytest.mark.parametrize("native", [True, False])
def test_precision_auto_is_bfloat16_where_the_cpu_computes_in_it(tmp_path, native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    toy.run(tmp_path / "auto", precision="auto")
    toy.run(tmp_path / "wanted", precision="bfloat16" if native else "float32")
    assert same(weights(tmp_path / "auto"), weights(tmp_path / "wanted"))


def test_a_loss_that_is_no_number_stops_before_the_weights_are_spoilt(tmp_path):
    with pytest.raises(TrainingError, match=r"no longer a number at step 8 \(.*nan.*step-00000006.pt"):
        toy.run(tmp_path, spoilt=7)
    state = Checkpoints(tmp_path, 2).load(tmp_path / "checkpoints" / "step-00000006.pt")
    assert all(tensor.isfinite().all() for tensor in state.network.values())


def test_weights_that_are_no_numbers_are_never_saved(tmp_path, monkeypatch):
    """As when another process's loss, which this one does not see, went into the gradient."""
    step = torch.optim.Adam.step

    def spoil(self, *arguments, **options):
        step(self, *arguments, **options)
        if next(iter(self.state.values()))["step"] == 6:
            self.param_groups[0]["params"][0].data.fill_(math.nan)

    monkeypatch.setattr(torch.optim.Adam, "step", spoil)
    with pytest.raises(TrainingError, match=r"are no longer numbers at step 6; the last good checkpoint is .*step-00000004.pt"):
        toy.run(tmp_path, log_every=100)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.pt", "step-00000003.pt", "step-00000004.pt"]


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    folder = Checkpoints(tmp_path, 2)
    folder.save(State(step=3), is_best=False)

    def full(values, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(TrainingError, match="no space left on the disk; .*step-00000003.pt is kept; make room and go on with --resume"):
        folder.save(State(step=6), is_best=False)
    assert [path.name for path in folder.folder.iterdir()] == ["step-00000003.pt"]


def test_checkpoints_run_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch " + str(tmp_path / "done"),)

    path = tmp_path / "step-00000001.pt"
    torch.save({"regkit": 1, "network": Evil()}, path)
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        Checkpoints(tmp_path, 1).load(path)
    assert not (tmp_path / "done").exists()


def test_resuming_with_other_processes_is_refused(tmp_path):
    toy.run(tmp_path, steps=(3, 3))
    with pytest.raises(UsageError, match="begun with 1 processes, and these are 2"):
        task = toy.Toy((3, 3))

        class Two(toy.World):
            def share(self, item):
                return item

        toy.train(task, toy.Loop(), tmp_path, Two(0, 2), torch.device("cpu"), resume=True, quiet=True)


def test_the_log_forgets_what_came_after_the_checkpoint(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"event": "train", "step": 2}\n{"event": "train", "step": 4}\n{"event": "tr')
    Log(tmp_path, 3).close()
    assert [event["step"] for event in events(tmp_path, "train")] == [2]
