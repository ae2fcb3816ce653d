"""Builds the C++ extension once per instruction set; `regkit.ops.native` picks one at run time.

Each instruction set is a module of its own (regkit._cpp_baseline, _cpp_avx2, _cpp_avx512): the same sources, other flags. Separate modules
keep their inline functions apart, so that no AVX-512 copy of a shared template can end up in the baseline's path.
"""

import hashlib
import os
import platform
import sys
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
        super(BuildExtension, own).build_extension(ext)


def outdated(obj: str, source: str) -> bool:
    """Whether an object is older than its source, than any header, or than the flags in this file."""
    return os.path.getmtime(obj) < max(os.path.getmtime(path) for path in (source, __file__, *HEADERS))


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
    ext_modules=[extension(name, flags) for name, flags in INSTRUCTION_SETS.items()],
    cmdclass={"build_ext": BuildExtension},
)
