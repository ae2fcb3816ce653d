"""Builds the C++ extension once per instruction set; `regkit.ops.native` picks one at run time.

Each instruction set is a module of its own (regkit._cpp_baseline, _cpp_avx2, _cpp_avx512): the same sources, other flags. Separate modules
keep their inline functions apart, so that no AVX-512 copy of a shared template can end up in the baseline's path.
"""

import platform
from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup

# -fno-math-errno and -fno-trapping-math let the compiler vectorise floor() and comparisons; NaN and infinity keep their meaning.
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-pthread", "-Wall"]
INSTRUCTION_SETS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS |= {
        "avx2": ["-mavx2", "-mfma", "-mf16c", "-mbmi2"],
        "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c", "-mbmi2", "-mprefer-vector-width=512"],
    }


def extension(instruction_set: str, flags: list[str]) -> Pybind11Extension:
    return Pybind11Extension(
        f"regkit._cpp_{instruction_set}",
        sorted(["csrc/bindings.cpp", *glob("csrc/cpu/*.cpp")]),
        depends=sorted(glob("csrc/core/*.h") + glob("csrc/cpu/*.h")),
        include_dirs=["csrc"],
        define_macros=[("REGKIT_MODULE", f"_cpp_{instruction_set}"), ("REGKIT_INSTRUCTION_SET", f'"{instruction_set}"')],
        extra_compile_args=[*FLAGS, *flags],
        extra_link_args=["-pthread"],
        cxx_std=17,
    )


ParallelCompile("NPY_NUM_BUILD_JOBS", default=0).install()
setup(
    packages=["regkit.kernels"] + [f"regkit{suffix}" for suffix in ("", *sorted({p[6:-12].replace("/", ".") for p in glob("regkit/**/__init__.py", recursive=True)} - {""}))],
    package_dir={"regkit": "regkit", "regkit.kernels": "kernels"},
    package_data={"regkit.report": ["*.j2", "*.css", "*.js"]},
    ext_modules=[extension(name, flags) for name, flags in INSTRUCTION_SETS.items()],
)
