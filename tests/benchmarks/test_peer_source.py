"""Peers that come as source: what is compiled, and where; one line where that fails; how their functions are called."""

import argparse
import multiprocessing
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch.utils import cpp_extension

from tests.benchmarks import __main__ as runner
from tests.benchmarks import providers
from tests.benchmarks.case import Size
from tests.benchmarks.cases import CASES
from tests.benchmarks.peers import source

# The modules that adapters call, by the real ones' signatures, in plain torch.
FIREANTS_LOSS = """
    import fireants_fused_ops
    import torch
    from tests.benchmarks.peers import lncc

    class FusedLocalNormalizedCrossCorrelationLoss(torch.nn.Module):
        def __init__(self, spatial_dims=3, kernel_size=3, reduction="mean", smooth_nr=1e-5, smooth_dr=1e-5, use_ants_gradient=True,
                     use_separable=True, kernel_type="rectangular", sigma=1.5, masked=False, mask_mode="intersection"):
            super().__init__()
            assert (reduction, kernel_type, use_ants_gradient, smooth_nr) == ("mean", "rectangular", False, 0)
            self.window, self.eps = kernel_size, smooth_dr * kernel_size**spatial_dims

        def forward(self, pred, target):
            return -Scaled.apply(lncc.separable(pred, target, self.window, self.eps), pred.numel() / self.window ** (pred.dim() - 2))

    class Scaled(torch.autograd.Function):  # as its gradient of a mean is
        @staticmethod
        def forward(ctx, x, scale):
            ctx.scale = scale
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.scale, None
"""
FIREANTS_SAMPLER = """
    import fireants_fused_ops
    import torch
    import torch.nn.functional as F

    def fused_grid_sampler_3d(input, affine=None, grid=None, grid_affine=None, mode="bilinear", padding_mode="zeros", align_corners=True,
                              min_coords=None, max_coords=None, out_shape=None, is_displacement=True, output=None):
        assert affine is None and is_displacement and grid.is_contiguous() and grid.shape[1:-1] == input.shape[2:]
        dims = input.dim() - 2
        eye = torch.eye(dims, dims + 1)[None].expand(input.shape[0], -1, -1)
        identity = F.affine_grid(eye, input.shape, align_corners=align_corners)
        return F.grid_sample(input, identity + grid, mode=mode, padding_mode=padding_mode, align_corners=align_corners)

    fused_grid_sampler_2d = fused_grid_sampler_3d
"""
FUSED_LNCC = """
    import fused_lncc_cuda
    from tests.benchmarks.peers import lncc

    def fused_lncc_loss(pred, target, kernel_size=7, smooth_dr=1e-5):
        assert pred.dim() == 5 and pred.shape == target.shape
        return 1 - lncc.separable(pred, target, kernel_size, smooth_dr)
"""
CHECKOUTS = {
    "fireants": {
        "fireants/__init__.py": "",
        "fireants/losses/__init__.py": "",
        "fireants/losses/fusedcc.py": FIREANTS_LOSS,
        "fireants/interpolator/__init__.py": "",
        "fireants/interpolator/fused_grid_sample.py": FIREANTS_SAMPLER,
        "fireants/tests/__init__.py": "",
        "fused_ops/src/src.cpp": "",
        "fused_ops/src/CrossCorrelation.cu": "",
        "fused_ops/include/common.h": "",
        "fused_ops/setup.py": "raise SystemExit('is not for us')",
        "tests/__init__.py": "raise ImportError('these tests are not ours')",
    },
    "fused_lncc": {"fused_lncc/__init__.py": FUSED_LNCC, "fused_lncc/csrc/lncc3d.cu": "", "tests/__init__.py": "raise ImportError"},
}
COMPILED = {"fireants": ("CrossCorrelation.cu", "src.cpp"), "fused_lncc": ("lncc3d.cu",)}


@pytest.fixture
def checkouts(tmp_path) -> dict[str, Path]:
    for name, files in CHECKOUTS.items():
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(dedent(text))
    return {name: tmp_path / name for name in CHECKOUTS}


def contents(directory: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", CHECKOUTS)
def test_what_is_compiled(name, checkouts, tmp_path, monkeypatch):
    called = {}
    monkeypatch.setattr(cpp_extension, "load", lambda **options: called.update(options))
    source.build(name, checkouts[name], tmp_path / "out")
    assert called["name"] == source.SOURCES[name].extension
    assert tuple(Path(path).name for path in called["sources"]) == COMPILED[name]
    assert all(Path(path).is_file() for path in called["sources"] + [f"{d}/common.h" for d in called["extra_include_paths"]])
    assert bool(called["extra_include_paths"]) == (name == "fireants")
    assert called["build_directory"] == str(tmp_path / "out")


def test_arguments(tmp_path, monkeypatch, capsys):
    assert source.parsed([f"fireants={tmp_path}", "fused_lncc=a=b"]) == {"fireants": tmp_path, "fused_lncc": Path("a=b").resolve()}
    for wrong in ("fireants", "ants=/tmp", "fireants="):
        with pytest.raises(ValueError, match="--peer-source takes NAME=DIR with a NAME of fireants, fused_lncc, but came as"):
            source.parsed([wrong])
    monkeypatch.setattr(sys, "argv", ["bench", "--peer-source", "fireants=/tmp"])
    assert runner.main() == 2 and "--peer-source is for --device cuda" in capsys.readouterr().err


def test_what_is_not_a_checkout_is_told(checkouts, tmp_path):
    given = {"fireants": tmp_path / "nowhere", "fused_lncc": checkouts["fireants"]}
    with source.built(given) as reasons:
        assert reasons["fireants"] == f"{tmp_path / 'nowhere'} is not a directory"
        assert "lacks fused_lncc/csrc/*.cu or fused_lncc/: a checkout of github.com/minsuk00/fused-lncc is wanted" in reasons["fused_lncc"]
        peers = {name: why for case in CASES for name, why in source.not_measured(case.peers, reasons).items()}
    assert peers == {"FireANTs": reasons["fireants"], "fused-lncc": reasons["fused_lncc"]}


def test_a_build_that_fails_is_one_line(checkouts):
    """torch's own failure, whichever it is here: no CUDA, or an error in what is compiled."""
    (checkouts["fused_lncc"] / "fused_lncc/csrc/lncc3d.cu").write_text("#error no such luck\n")
    before = contents(checkouts["fused_lncc"])
    with source.built({"fused_lncc": checkouts["fused_lncc"]}) as reasons:
        assert find_spec("fused_lncc") is None
    assert reasons["fused_lncc"].startswith("compiling it failed: ") and "\n" not in reasons["fused_lncc"]
    assert "no such luck" in reasons["fused_lncc"] or "CUDA_HOME" in reasons["fused_lncc"]
    assert contents(checkouts["fused_lncc"]) == before


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("import time; time.sleep(60)", "compiling it took too long"),
        ("print('a.cu(3): error: what'); print('ninja: stopped'); raise SystemExit(1)", "compiling it failed: a.cu(3): error: what"),
        ("raise SystemExit(3)", "compiling it failed: "),
        ("pass", "compiling it left no module"),
    ],
)
def test_how_builds_end(script, told, checkouts, monkeypatch):
    monkeypatch.setattr(source, "command", lambda *_: [sys.executable, "-c", script])
    with source.built({"fused_lncc": checkouts["fused_lncc"]}, patience=3 if "sleep" in script else 60) as reasons:
        assert reasons == {"fused_lncc": told}


@pytest.fixture
def compiled(checkouts, monkeypatch):
    """Both checkouts, compiled by a stand-in: a module that says nothing."""
    suffix = "import pathlib, sys; pathlib.Path(sys.argv[2], sys.argv[1] + '.so').touch()"
    monkeypatch.setattr(
        source, "command", lambda name, _, folder: [sys.executable, "-c", suffix, source.SOURCES[name].extension, str(folder)]
    )
    before = contents(checkouts["fireants"])
    with source.built(checkouts) as reasons:
        assert not reasons
        yield checkouts
    assert contents(checkouts["fireants"]) == before


def test_what_was_compiled_can_be_imported_and_nothing_else(compiled):
    theirs = ("fireants", "fireants_fused_ops", "fused_lncc", "fused_lncc_cuda")
    names = (*theirs, "tests.benchmarks.case", "fused_ops")
    asked = "[__import__('importlib.util').util.find_spec(name) is not None for name in names], __import__('sys').dont_write_bytecode"
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # as the worker is
        found, clean = pool.apply_async(eval, (asked, {"names": names})).get(timeout=60)
    assert found == [True] * 5 + [False] and clean


def test_adapters_call_them_as_they_are(compiled, monkeypatch):
    """On the CPU, by the stand-ins: values and gradients are regkit's, in every case that names such a peer."""
    modules = {module for s in source.SOURCES.values() for module in (s.package, s.extension)}
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for s in source.SOURCES.values():
        monkeypatch.setitem(sys.modules, s.extension, type(sys)(s.extension))
        sys.modules[s.extension].__spec__ = object()
    called = set()
    try:
        for case in CASES:
            theirs = {name: replace(peer, devices=("cpu",)) for name, peer in case.peers.items() if peer.needs in modules}
            for dims in case.dims if theirs and case.dtype == torch.float32 else ():
                size = Size((24, 28), batch=2, channels=2) if dims == 2 else Size((12, 14, 13), channels=2)
                checked = providers.checked(replace(case, peers=theirs), size, "cpu")
                assert not checked.failed and not checked.absent
                called |= {(case.name, name, dims) for name in checked.runs if name in theirs}
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("fireants", "fused_lncc")]:
            del sys.modules[name]
    assert ("lncc window 9 forward+backward", "fused-lncc", 3) in called
    assert {(name, "FireANTs", dims) for name in ("lncc window 9 forward+backward", "warp forward") for dims in (2, 3)} <= called
    assert {
        (f"{name} (features)", peer, 3) for name in ("lncc window 7 forward+backward",) for peer in ("fused-lncc", "FireANTs")
    } <= called


def test_what_was_not_built_is_told(capsys):
    """At the top, and in every case that it would be timed in, in place of other reasons."""
    case = next(case for case in CASES if case.name == "warp forward")
    options = argparse.Namespace(device="cpu", threads=1, rounds=1, budget=0.1, limit=None, no_memory=True, no_compile=True, dry=True)
    assert runner.measure(options, [(case, "x-ray")], time.monotonic(), {}, {"fireants": "compiling it failed: [what]"}) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "not measured" in line]
    assert "fireants: not measured: compiling it failed: [what]" in told and "FireANTs: not measured: compiling it failed: [what]" in told
