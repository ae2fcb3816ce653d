"""Where a registration is computed: names of devices; and that nothing in it is left behind on the CPU, which a machine without a GPU can
tell too: every tensor is made on a device that the code names, and comes to numpy by way of `cpu()`."""

import sys
from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode

from regkit import register
from regkit.errors import UsageError
from regkit.geometry import Composite, Image
from regkit.registration.config import PRESETS, AffineStage
from regkit.registration.device import resolve
from tests.registration.anatomy import grid_at, make_pair, wave
from tests.registration.variants import variants

MAKERS = {getattr(torch, name) for name in ("zeros", "ones", "empty", "full", "eye", "arange", "linspace", "tensor", "as_tensor", "rand")}
ON_THE_CPU = {"regkit.registration.affine"}  # small problems that stay there


class Placed(TorchFunctionMode):
    """Raises AssertionError for tensors that would be on the CPU whatever the device of the registration."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        frame = sys._getframe(1)
        while frame and not frame.f_globals.get("__name__", "").startswith("regkit"):
            frame = frame.f_back
        where = frame.f_globals["__name__"] if frame else ""
        if where and where not in ON_THE_CPU:
            line = f"{where}, line {frame.f_lineno}"
            assert function not in MAKERS or kwargs.get("device") is not None, f"{line}: {function.__name__} without a device"
            assert function is not torch.Tensor.numpy or getattr(args[0], "fetched", False), (
                f"{line}: numpy() of what is not fetched by cpu()"
            )
        result = function(*args, **kwargs)
        if function is torch.Tensor.cpu:
            result.fetched = True
        elif getattr(args[0] if args else None, "fetched", False) and isinstance(result, torch.Tensor):
            result.fetched = True  # what is made of fetched tensors alone, in affine's CPU code or by a view
        return result


SMALL = replace(
    PRESETS["generic"],
    affine=AffineStage(voxels=(4000,), iterations=(4,)),
    refine=replace(PRESETS["generic"].refine, iterations=(2, 2, 12)),
)
CASES = variants(SMALL)


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_is_where_it_belongs(name):
    grid = grid_at((30, 28, 26), 2.8)
    pair = make_pair(grid, grid_at((29, 30, 28), 2.9, (4, 3, -5)), Composite([wave(grid, 6.0)]))
    mask = Image((pair.fixed.data > 0.2).astype("uint8"), pair.fixed.grid)
    with Placed():
        result = register(pair.fixed, pair.moving, config=CASES[name], fixed_mask=mask, device="cpu")
    assert result.record.metrics["similarity_after"] > result.record.metrics["similarity_before"]


def test_the_check_finds_what_it_is_for():

    code = "def make(torch): return torch.zeros(3)\ndef convert(x): return x.numpy()"
    names = {"__name__": "regkit.example"}
    exec(code, names)
    with Placed():
        with pytest.raises(AssertionError, match="zeros without a device"):
            names["make"](torch)
        with pytest.raises(AssertionError, match="not fetched"):
            names["convert"](torch.zeros(3, device="cpu"))
        assert names["convert"](torch.zeros(3, device="cpu").cpu()).sum() == 0


def test_names_of_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve("auto") == resolve("cpu") == torch.device("cpu")
    for name, said in (
        ("cuda", "no GPU"),
        ("cuda:1", "no GPU"),
        ("gpu", "unknown"),
        ("cuda:x", "unknown"),
        ("cpu:0", "unknown"),
        ("", "unknown"),
    ):
        with pytest.raises(UsageError, match=said):
            resolve(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert resolve("auto") == resolve("cuda") == torch.device("cuda", 1)
    assert resolve("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(UsageError, match="there are 2 GPUs, counted from cuda:0"):
        resolve("cuda:2")
