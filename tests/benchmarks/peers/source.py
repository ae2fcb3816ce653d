"""Peers that come as source, by a path: torch's cpp_extension compiles their CUDA kernels, and their package is imported where it lies.

All that is made lies in a temporary folder: the compiled module, and a link to the package. Nothing else of a checkout gets onto sys.path,
where its folder `tests` would stand before ours. Each peer is compiled in a process of its own, so that an error, or a compiler that never
ends, is a reason why that peer was not measured, in one line, and nothing more.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

PATIENCE = 300  # seconds for compiling
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Source:
    repository: str
    package: str  # the folder that is imported
    extension: str  # the module that is compiled
    kernels: str  # the folder of its .cu and .cpp
    include: str | None = None

    def files(self, directory: Path) -> list[Path]:
        """What is compiled; raises ValueError where it is not there."""
        if not directory.is_dir():
            raise ValueError(f"{directory} is not a directory")
        found = sorted(path for path in (directory / self.kernels).glob("*.c*") if path.suffix in (".cu", ".cpp"))
        if not found or not (directory / self.package).is_dir():
            raise ValueError(f"{directory} lacks {self.kernels}/*.cu or {self.package}/: a checkout of {self.repository} is wanted")
        return found

    def version(self, directory: Path) -> str:
        """Tells one state of the kernels from another."""
        return "source " + hashlib.sha256(b"".join(path.read_bytes() for path in self.files(directory))).hexdigest()[:12]


SOURCES = {
    "fireants": Source("github.com/rohitrango/FireANTs", "fireants", "fireants_fused_ops", "fused_ops/src", "fused_ops/include"),
    "fused_lncc": Source("github.com/minsuk00/fused-lncc", "fused_lncc", "fused_lncc_cuda", "fused_lncc/csrc"),
}


def parsed(arguments: list[str]) -> dict[str, Path]:
    """name=DIR, .. -> the directory of each; raises ValueError for a name that is not known."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    for name, directory in given.items():
        if name not in SOURCES or not directory:
            raise ValueError(f"--peer-source takes NAME=DIR with a NAME of {', '.join(SOURCES)}, but came as {name}={directory}")
    return {name: Path(directory).resolve() for name, directory in given.items()}


def build(name: str, directory: Path, folder: Path) -> None:
    """Compiles a peer into `folder`, which exists, for the GPU that is there, and imports it once."""
    from torch.utils import cpp_extension

    source = SOURCES[name]
    cpp_extension.load(
        name=source.extension,
        sources=[str(path) for path in source.files(directory)],
        extra_include_paths=[str(directory / source.include)] if source.include else [],
        extra_cflags=["-O3"],
        extra_cuda_cflags=["-O3"],
        build_directory=str(folder),
        with_cuda=True,
    )


def command(name: str, directory: Path, folder: Path) -> list[str]:
    """Runs `build`."""
    return [sys.executable, "-m", __name__, name, str(directory), str(folder)]


@contextmanager
def built(given: dict[str, Path], patience: float = PATIENCE) -> Iterator[dict[str, str]]:
    """Compiles the peers, all at the same time. Within this context they can be imported, in processes that are started here too; yields
    for each that can't the reason."""
    environment = dict(os.environ)
    if Path("/usr/local/cuda").is_dir():  # else torch looks for nvcc on PATH, where a link to it may be
        environment.setdefault("CUDA_HOME", "/usr/local/cuda")
    with tempfile.TemporaryDirectory(prefix="peers-") as temporary:
        importable = Path(temporary, "importable")
        importable.mkdir()
        reasons: dict[str, str] = {}
        running: dict[str, subprocess.Popen] = {}
        try:
            for name, directory in given.items():
                try:
                    SOURCES[name].files(directory)
                except ValueError as error:
                    reasons[name] = str(error)
                    continue
                folder, log = Path(temporary, name), Path(temporary, f"{name}.log")
                folder.mkdir()
                with log.open("wb") as output:
                    running[name] = subprocess.Popen(
                        command(name, directory, folder),
                        cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                    )  # fmt: skip
            end = time.monotonic() + patience
            for name, process in running.items():
                reason = ended(process, end - time.monotonic(), Path(temporary, f"{name}.log"))
                modules = [] if reason else list(Path(temporary, name).glob(f"{SOURCES[name].extension}*{EXTENSION_SUFFIXES[-1]}"))
                if not modules:
                    reasons[name] = reason or "compiling it left no module"
                    continue
                (importable / modules[0].name).symlink_to(modules[0])
                (importable / SOURCES[name].package).symlink_to(given[name] / SOURCES[name].package)
        finally:
            for process in running.values():
                stop(process)
        with imported_from(importable):
            yield reasons


@contextmanager
def imported_from(folder: Path) -> Iterator[None]:
    """Within this context its modules can be imported, in processes that are spawned too; those write nothing beside a source."""
    before = os.environ.get("PYTHONDONTWRITEBYTECODE")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        del os.environ["PYTHONDONTWRITEBYTECODE"]
        if before is not None:
            os.environ["PYTHONDONTWRITEBYTECODE"] = before


def ended(process: subprocess.Popen, patience: float, log: Path) -> str:
    """Waits for a compiler; why it failed, in one line, or nothing."""
    try:
        if process.wait(max(patience, 0)) == 0:
            return ""
    except subprocess.TimeoutExpired:
        return "compiling it took too long"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    told = next((line for line in lines if " error: " in line or ": error" in line or "fatal error" in line), lines[-1] if lines else "")
    return f"compiling it failed: {told}"[:300]


def stop(process: subprocess.Popen) -> None:
    """With the compilers that it has started: they are in its session."""
    if process.poll() is None:
        os.killpg(process.pid, 9)
        process.wait()


def not_measured(peers: dict, reasons: dict[str, str]) -> dict[str, str]:
    """Of a case's peers, those that were not built."""
    missing = {module: why for name, why in reasons.items() for module in (SOURCES[name].package, SOURCES[name].extension)}
    return {name: missing[peer.needs] for name, peer in peers.items() if peer.needs in missing}


if __name__ == "__main__":
    build(sys.argv[1], *map(Path, sys.argv[2:]))
