"""A task of a second for the engine's tests: two layers, one a stage, learn a fixed linear map of noisy samples.

Run as a program it trains in a directory, for the tests that need a process to kill, or several.
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from regkit.models.weights import Card
from regkit.training import Loop, Score, Stage, Task, seed_everything, train
from regkit.training.distributed import World, joined


class Samples(Dataset):
    def __init__(self, spoilt: int | None = None):
        self.spoilt = spoilt

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, n: int) -> dict[str, torch.Tensor]:
        x = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(n))
        return {"x": x * (float("nan") if n == self.spoilt else 1.0), "y": x.flip(0)[:1] - 0.5 * x[1:2]}


class Toy(Task):
    best = ("error", False)

    def __init__(self, steps: tuple[int, int] = (6, 8), spoilt: int | None = None, dropout: float = 0.2):
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout(dropout), nn.Conv2d(4, 1, 3, padding=1))
        self.stages = [Stage(f"stage {n + 1}", count) for n, count in enumerate(steps)]
        self.dataset = Samples(spoilt)
        self.seen: list[tuple[int, int]] = []

    def trained(self, stage):
        return self.network[2].parameters() if stage == 0 else self.network.parameters()

    def frozen(self, stage, step):
        return self.network[2].parameters() if stage == 1 and step < 3 else ()

    def loss(self, batch, stage):
        error = self.network(batch["x"]).float() - batch["y"]
        return {"square": error.square().mean(), "absolute": 0.1 * error.abs().mean()}

    def validate(self, stage, world, device):
        batch = [self.dataset[10**6 + n] for n in range(world.rank, 4, world.size)]
        errors = [float((self.network(b["x"][None].to(device)).float().cpu() - b["y"]).square().mean()) for b in batch]
        errors = sum(world.gather(errors), [])
        return Score({"error": sum(errors) / len(errors)}, {"sample": batch[0]["y"][0].sigmoid().numpy()} if world.leads else {})

    def card(self, metrics):
        return Card("lapirn", name="toy", metrics=dict(metrics))


def run(folder: Path, *, steps=(6, 8), resume=False, spoilt=None, dropout=0.2, world: World | None = None, **options) -> Toy:
    """Trains in `folder` and gives the task."""
    loop = Loop(**{"save_every": 3, "validate_every": 4, "log_every": 2, "learning_rate": 0.05, **options})
    seed_everything(loop.seed, loop.deterministic)
    task = Toy(steps, spoilt, dropout)
    train(task, loop, folder, world or World(), torch.device("cpu"), resume=resume, quiet=True)
    return task


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = dict(argument.split("=") for argument in sys.argv[2:])
    if "kill_at" in given:  # as a power cut would: at once, without a chance to write
        import os
        import signal

        death, forward = int(given["kill_at"]), Toy.loss
        counted = iter(range(10**6))

        def deadly(self, batch, stage):
            if next(counted) == death:
                os.kill(os.getpid(), signal.SIGKILL)
            return forward(self, batch, stage)

        Toy.loss = deadly
    with joined(torch.device("cpu")) as everyone:
        run(
            Path(sys.argv[1]),
            world=everyone,
            resume=given.get("resume") == "yes",
            batch=int(given.get("batch", 1)),
            accumulate=int(given.get("accumulate", 1)),
            dropout=float(given.get("dropout", 0.2)),
        )
