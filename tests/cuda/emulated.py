"""Builds the CUDA kernels for the CPU: csrc/cuda by a C++ compiler, with emulation.h for what nvcc has built in."""

import fcntl
import hashlib
import os
import shlex
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pybind11

ROOT = Path(__file__).resolve().parents[2]
NAME = "_cuda_emulated"
FLAGS = ["-O1", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
DEFINED = ["-DREGKIT_EMULATE_CUDA", f"-DREGKIT_MODULE={NAME}"]


def load() -> ModuleType:
    """The module, built if its sources have changed. Raises AssertionError with what the compiler says."""
    spec = spec_from_file_location(NAME, build())
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build() -> Path:
    folder = ROOT / "build/emulated-cuda"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:  # tests may run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        compiler = shlex.split(os.environ.get("CXX") or "c++")
        includes = [f"-I{ROOT / 'csrc'}", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
        command = [*compiler, *FLAGS, *DEFINED, *includes]
        headers = sorted(ROOT.glob("csrc/**/*.h"))
        sources = [ROOT / "csrc/cuda/bindings.cpp", *sorted(ROOT.glob("csrc/cuda/*.cu"))]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda source: _object(source, headers, command, folder), sources))
        name = hashlib.sha256("".join(path.name for path in objects).encode()).hexdigest()[:16]
        library = folder / f"{NAME}-{name}.so"
        if not library.exists():
            _run([*compiler, "-shared", *map(str, objects), "-o", str(library)])
        return library


def _object(source: Path, headers: list[Path], command: list[str], folder: Path) -> Path:
    """Its object file, named by what it was made of."""
    parts = [repr(command).encode(), *(path.read_bytes() for path in (source, *headers))]
    made = folder / f"{source.name}-{hashlib.sha256(b''.join(parts)).hexdigest()[:16]}.o"
    if not made.exists():
        _run([*command, "-x", "c++", "-c", str(source), "-o", str(made.with_suffix(".new"))])
        made.with_suffix(".new").rename(made)
    return made


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
