"""Builds the C++ extension once per instruction set, of which `regkit.ops.native` picks one at run time, and the CUDA one where nvcc is.

Each instruction set is a module of its own (regkit._cpp_baseline, _cpp_avx2, _cpp_avx512): the same sources, other flags. Separate modules
keep their inline functions apart, so that no AVX-512 copy of a shared template can end up in the baseline's path.

regkit._cuda needs nvcc (of CUDA_HOME, on PATH, or in /usr/local/cuda) at build time, and no CUDA library at run time: cudart is linked in.
    REGKIT_CUDA=0                     leaves it out; 1: fails where nvcc is missing, instead of leaving it out
    REGKIT_CUDA_ARCHITECTURES=80,90   GPUs to compile for (default: of 80, 90, 100 those that nvcc knows; PTX for newer ones)
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from glob import glob

import pybind11
from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext

# -fno-math-errno and -fno-trapping-math let the compiler vectorise floor() and comparisons; NaN and infinity keep their meaning.
FLAGS = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-pthread", "-Wall"]
INSTRUCTION_SETS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    avx2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi2"]
    avx512 = [*avx2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
    INSTRUCTION_SETS |= {"avx2": avx2, "avx512": avx512}

HEADERS = sorted(glob("csrc/core/*.h") + glob("csrc/cpu/*.h"))
CUDA_HEADERS = sorted(glob("csrc/core/*.h") + glob("csrc/cuda/*.h"))
CUDA_FLAGS = ["-O3", "-std=c++17", "-Xcompiler", "-fPIC,-fvisibility=hidden,-g0", "-cudart", "static", "--expt-relaxed-constexpr"]
CUDA_MODULE = "regkit._cuda"


def nvcc() -> str | None:
    """The CUDA compiler; None where there is none, or none is wanted."""
    wanted = os.environ.get("REGKIT_CUDA", "")
    if wanted == "0":
        return None
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    places = [os.path.join(home, "bin") for home in homes] + [os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"]
    found = shutil.which("nvcc", path=os.pathsep.join(places))
    if found is None and wanted == "1":
        sys.exit(
            "error: REGKIT_CUDA=1, but there is no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda/bin; install CUDA or set CUDA_HOME"
        )
    return found


def cuda_architectures(compiler: str) -> list[str]:
    """-gencode options."""
    known = subprocess.run([compiler, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    wanted = [name for name in os.environ.get("REGKIT_CUDA_ARCHITECTURES", "").replace(";", ",").split(",") if name]
    chosen = wanted or [name for name in ("80", "90", "100") if f"sm_{name}" in known]
    missing = [name for name in chosen if f"sm_{name}" not in known]
    if missing or not chosen:
        sys.exit(f"error: {compiler} knows {', '.join(known)}, and not sm_{', sm_'.join(missing or ['80'])}; set REGKIT_CUDA_ARCHITECTURES")
    options = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in chosen]
    return [*options, f"-gencode=arch=compute_{chosen[-1]},code=compute_{chosen[-1]}"]


def cuda_home(compiler: str) -> str:
    """The toolkit's folder, which nvcc tells (it may be called by a link or a script)."""
    told = subprocess.run([compiler, "-v", "-dryrun", "-x", "cu", os.devnull, "-c"], capture_output=True, text=True, check=True).stderr
    return next(line.split("=", 1)[1].strip() for line in told.splitlines() if line.startswith("#$ TOP="))


class BuildExtension(build_ext):
    """Keeps the objects of each instruction set, and of each set of flags, in a folder of their own under build/.

    distutils names objects by their source alone, so in one folder an AVX-512 object could be linked into the baseline. With folders apart,
    objects can be kept, and a rebuild compiles only what changed; it links always, which takes a second.
    """

    def finalize_options(self):
        super().finalize_options()
        self.force = True
        # An editable install would use a temporary folder, and so compile everything each time.
        self.build_temp = os.path.join("build", f"temp.{self.plat_name}-{sys.implementation.cache_tag}")

    def build_extension(self, ext):
        how = (self.compiler.compiler_so, getattr(self.compiler, "compiler_so_cxx", None), ext.extra_compile_args, ext.define_macros)
        fingerprint = hashlib.sha256(repr((how, sys.version, pybind11.__version__)).encode()).hexdigest()[:12]
        own = copy(self)  # so that extensions built at the same time (build_ext --parallel) do not share a folder or a compiler either
        own.compiler = copy(self.compiler)
        own.build_temp = os.path.join(self.build_temp, f"{ext.name}-{fingerprint}")
        if ext.name == CUDA_MODULE:
            ext.extra_objects = compile_cuda(own.build_temp)
        super(BuildExtension, own).build_extension(ext)


def compile_cuda(folder: str) -> list[str]:
    """The objects of csrc/cuda, those compiled anew that changed."""
    compiler = nvcc()
    command = [compiler, *CUDA_FLAGS, *cuda_architectures(compiler), "-Icsrc", "-c"]
    folder = os.path.join(folder, hashlib.sha256(repr(command).encode()).hexdigest()[:12])
    os.makedirs(folder, exist_ok=True)

    def compiled(source: str) -> str:
        obj = os.path.join(folder, f"{os.path.basename(source)}.o")
        if not os.path.exists(obj) or outdated(obj, source):
            subprocess.run([*command, source, "-o", f"{obj}.new"], check=True)
            os.replace(f"{obj}.new", obj)
        return obj

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compiled, sorted(glob("csrc/cuda/*.cu"))))


def cuda_extension(compiler: str) -> Pybind11Extension:
    home = cuda_home(compiler)
    libraries = [
        path
        for path in (f"{home}/lib64", f"{home}/targets/x86_64-linux/lib", f"{home}/targets/sbsa-linux/lib", f"{home}/lib")
        if os.path.isdir(path)
    ]
    return Pybind11Extension(
        CUDA_MODULE,
        ["csrc/cuda/bindings.cpp"],
        depends=[*CUDA_HEADERS, *sorted(glob("csrc/cuda/*.cu"))],
        include_dirs=["csrc", f"{home}/include"],
        extra_compile_args=[*FLAGS],
        library_dirs=libraries,
        libraries=["cudart_static", "dl", "rt"],
        extra_link_args=["-pthread"],
        cxx_std=17,
    )


def outdated(obj: str, source: str) -> bool:
    """Whether an object is older than its source or a header of ours that this includes. (Other flags make another folder of objects.)"""
    return os.path.getmtime(obj) < max(map(os.path.getmtime, with_headers(source)))


def with_headers(source: str, seen: frozenset[str] = frozenset()) -> frozenset[str]:
    """A file and what it includes from csrc, and so on."""
    if source in seen:
        return seen
    seen |= {source}
    with open(source, encoding="utf-8") as file:
        names = re.findall(r'^\s*#include "(.+)"', file.read(), re.MULTILINE)
    for name in names:
        places = (os.path.normpath(os.path.join(folder, name)) for folder in ("csrc", os.path.dirname(source)))
        for place in places:
            if os.path.exists(place):
                seen = with_headers(place, seen)
                break
    return seen


def extension(instruction_set: str, flags: list[str]) -> Pybind11Extension:
    return Pybind11Extension(
        f"regkit._cpp_{instruction_set}",
        ["csrc/bindings.cpp", *sorted(glob("csrc/cpu/*.cpp"))],
        depends=HEADERS,
        include_dirs=["csrc"],
        define_macros=[("REGKIT_MODULE", f"_cpp_{instruction_set}"), ("REGKIT_INSTRUCTION_SET", f'"{instruction_set}"')],
        extra_compile_args=[*FLAGS, *flags],
        extra_link_args=["-pthread"],
        cxx_std=17,
    )


ParallelCompile("NPY_NUM_BUILD_JOBS", default=0, needs_recompile=outdated).install()
setup(
    packages=[*find_packages(include=["regkit", "regkit.*"]), "regkit.kernels"],
    package_dir={"regkit": "regkit", "regkit.kernels": "kernels"},
    package_data={"regkit.report": ["*.j2", "*.css", "*.js"], "regkit.models": ["shipped/*.safetensors"]},
    ext_modules=[
        *(extension(name, flags) for name, flags in INSTRUCTION_SETS.items()),
        *(cuda_extension(compiler) for compiler in [nvcc()] if compiler),
    ],
    cmdclass={"build_ext": BuildExtension},
)
