"""Trainings on a GPU: the losses are the CPU's, half precision learns, and a training goes on where it was broken off."""

import shutil

import pytest
import torch

from regkit.training import Loop, seed_everything, train
from regkit.training.distributed import World, pick_device
from tests.training import toy
from tests.training.test_registration_training import manifest, task_of  # noqa: F401  (a fixture)

pytestmark = pytest.mark.gpu


def run(folder, steps=(20, 40), resume=False, **options) -> toy.Toy:
    seed_everything(0, False)
    task = toy.Toy(steps, dropout=0.0)
    loop = Loop(**{"learning_rate": 0.05, "validate_every": 20, "save_every": 20, **options})
    train(task, loop, folder, World(), pick_device("cuda"), resume=resume, quiet=True)
    return task


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_it_learns(tmp_path, precision):
    task = run(tmp_path, precision=precision)
    assert {(p.dtype, p.device.type) for p in task.network.parameters()} == {(torch.float32, "cuda")}
    assert task.validate(1, World(), torch.device("cuda")).metrics["error"] < 0.5


def test_it_goes_on_from_a_checkpoint(tmp_path):
    whole = run(tmp_path / "whole", keep=9).network.state_dict()
    left = tmp_path / "broken" / "checkpoints"
    left.mkdir(parents=True)
    shutil.copy(tmp_path / "whole" / "checkpoints" / "step-00000040.pt", left)
    resumed = run(tmp_path / "broken", resume=True).network.state_dict()
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_lapirns_loss_and_gradient_are_the_cpus(manifest, tmp_path, stage):  # noqa: F811
    task, batch = task_of(manifest, tmp_path, folds=1.0)
    found = {}
    for device in ("cpu", "cuda"):
        task.network.to(device).zero_grad()
        terms = task.loss({name: tensor.to(device) for name, tensor in batch.items()}, stage)
        sum(terms.values()).backward()
        gradient = task.network.levels[0].encode[0].weight.grad.detach().cpu().clone()
        found[device] = {name: float(term) for name, term in terms.items()}, gradient
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=1e-3, abs=1e-4)
    torch.testing.assert_close(found["cuda"][1], found["cpu"][1], rtol=1e-2, atol=1e-4)
