"""Adam: torch's, to the bit, and without the seconds that importing torch's compiler takes."""

import subprocess
import sys

import pytest
import torch

from regkit.registration.adam import Adam


@pytest.mark.parametrize("fused", [False, True])
def test_is_torchs(fused):
    found = []
    for make in (lambda p: Adam(p, 0.1, (0.9, 0.99), fused), lambda p: torch.optim.Adam([p], 0.1, (0.9, 0.99), fused=fused, foreach=False)):
        p = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
        optimiser = make(p)
        for n in range(20):
            optimiser.zero_grad()
            (p.sin() * (n + 1)).square().sum().backward()
            optimiser.step()
        found.append(p.detach())
    assert torch.equal(*found) and float(found[0].abs().max()) < 0.9


def test_registering_does_not_import_the_compiler():
    """Of torch: a second or more of every command."""
    program = """
import sys, numpy as np, regkit
i, j = np.meshgrid(np.arange(40), np.arange(40), indexing="ij")
scans = [(np.exp(-((i - x) ** 2 + (j - 20) ** 2) / 60.0).astype(np.float32), np.eye(3)) for x in (19, 21)]
regkit.register(*scans)
assert "torch._dynamo" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr == ""
