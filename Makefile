# `make demo` and `make test` set up all that they need by themselves, in .venv: the package (compiled), its dependencies, the test tools.
# The second time they start at once; they install again when pyproject.toml, setup.py or csrc/ changed. Python changes need no install
# (it is an editable one). PIP_CONSTRAINT and pip's other variables are honoured.

PYTHON ?=# a Python >= 3.11 to build .venv from; found by itself when empty
USE_PYTHON ?=# a Python whose packages are used as they are, in place of .venv
FIXED ?=
MOVING ?=
OUT ?= demo-out
ARGS ?=# passed on to pytest (test, gpu) or the benchmark runner (bench)
GPU_SECONDS ?= 470# that `make gpu` may take, installing included; the tests at most half of them
GPU_DATA ?= brain,features,x-ray# image sizes that `make gpu` measures
FIREANTS ?=# checkout of github.com/rohitrango/FireANTs, whose fused ops `make gpu` compiles and times beside ours
FUSED_LNCC ?=# checkout of github.com/minsuk00/fused-lncc, likewise
SCANS ?= $(REGKIT_DATA)# directory of real scans that `make gpu` registers (examples/real_scans.py says how it is laid out); the phantom when empty

BEGIN := $(shell date +%s)
VENV := .venv
ifeq ($(USE_PYTHON),)
PY := $(VENV)/bin/python
READY := $(VENV)/installed
else
PY := $(USE_PYTHON)
READY := build/installed-in-$(subst /,-,$(USE_PYTHON))
endif
PEER_SOURCES := $(if $(FIREANTS)$(FUSED_LNCC),--peer-source $(if $(FIREANTS),"fireants=$(FIREANTS)") $(if $(FUSED_LNCC),"fused_lncc=$(FUSED_LNCC)"))
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

.PHONY: help demo test bench gpu gpu-sanitize lint clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    register a phantom and show figures and report; FIXED=... MOVING=... registers your own scans, OUT=... (demo-out) takes the results"
	@echo "make test    run the test suite; ARGS='-k warp' and the like go to pytest"
	@echo "make bench   time every op beside its peers; ARGS='--only warp' selects, ARGS=--help lists the options"
	@echo "make gpu     on a GPU, the tests that need one, the benchmark and three registrations, in less than 8 minutes; SCANS=directory of real scans"
	@echo "             FIREANTS=directory FUSED_LNCC=directory are checkouts of these peers, compiled (which takes minutes: GPU_SECONDS=900) and timed too"
	@echo "make gpu-sanitize   on a GPU, the CUDA kernels under compute-sanitizer's memcheck, racecheck and initcheck"
	@echo "make lint    check style with ruff"
	@echo "make clean   remove .venv and all that was built"
	@echo "USE_PYTHON=python3 with any of them takes that Python and the packages that it has in place of .venv, for machines without internet or"
	@echo "             with a torch of their own; regkit alone is installed into it (editable; setuptools and pybind11 must be there)"

demo: $(READY)
	@$(PY) -m regkit.cli demo -o "$(OUT)" $(if $(FIXED),-f "$(FIXED)") $(if $(MOVING),-m "$(MOVING)")

# Kernels in Triton's interpreter and compilers take most of the time, on one core a test: all cores work on several.
test: $(READY)
	@$(PY) -m pytest -n auto --dist worksteal --durations 15 $(ARGS)

bench: $(READY)
	@$(PY) -m tests.benchmarks $(ARGS)

# Test files without such a test stay out: what they import may be missing on a bare GPU machine. Kernels are compiled as tests run, in
# several processes where pytest-xdist is there. cuBLAS needs its variable for torch's deterministic mode. A failed test does not keep the
# benchmark from running.
gpu: $(READY)
	@$(PY) -c "$$CHECK_GPU"
	@tests=0; timings=0; \
	parallel=$$($(PY) -c "import importlib.util as util; print('-n 8' if util.find_spec('xdist') else '')"); \
	CUBLAS_WORKSPACE_CONFIG=:4096:8 timeout -s INT -k 20 $$(($(GPU_SECONDS) / 2)) $(PY) -m pytest -m gpu $$parallel $$(grep -rl "mark\.gpu" --include="test_*.py" tests) $(ARGS) || tests=1; \
	left=$$(($(GPU_SECONDS) - 60 - $$(date +%s) + $(BEGIN))); [ $$left -gt 60 ] || left=60; \
	$(PY) -m tests.benchmarks --device cuda --data $(GPU_DATA) --limit $$left $(PEER_SOURCES) || timings=1; \
	mkdir -p tests/benchmarks/results/registrations; \
	timeout -s INT -k 5 60 $(PY) examples/real_scans.py $(if $(SCANS),brain lung xray --data "$(SCANS)" --pairs 11-12 --n 1,phantom) \
	  --device cuda --repeat 2 --json tests/benchmarks/results/registrations/gpu.json || timings=1; \
	[ $$tests = 0 ] || echo "make gpu: tests failed, see above"; \
	exit $$((tests + timings))

# Without torch's cache of memory each tensor is an allocation of its own, whose ends and whose first writes the tools watch.
gpu-sanitize: $(READY)
	@$(PY) -c "$$CHECK_GPU"
	@command -v compute-sanitizer > /dev/null || { echo "error: no compute-sanitizer on PATH; it comes with the CUDA toolkit"; exit 1; }
	@for tool in memcheck racecheck initcheck; do \
	  echo "$$tool"; \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 --kernel-regex kns=regkit \
	    $(PY) -m pytest -q -p no:xdist tests/gpu/test_ops_on_gpu.py -k "follows and cuda" $(ARGS) || exit 1; \
	done

lint: $(if $(USE_PYTHON),,$(VENV)/installed-lint)
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

clean:
	rm -rf $(VENV) build dist *.egg-info regkit/*.so .pytest_cache .ruff_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed: $(VENV)/created $(SOURCES)
	@echo "installing regkit and its dependencies into $(VENV) (first time: some minutes)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $@

$(VENV)/installed-lint: $(VENV)/created pyproject.toml
	@$(PY) -m pip install --quiet --disable-pip-version-check ruff
	@touch $@

build/installed-in-%: $(SOURCES)
	@echo "installing regkit, and nothing else, into the environment of $(PY)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .
	@mkdir -p build && touch $@

$(VENV)/created:
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
	  for candidate in python3 python3.13 python3.12 python3.11 python; do \
	    if $$candidate -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; then python=$$candidate; break; fi; \
	  done; \
	fi; \
	if [ -z "$$python" ]; then \
	  echo "error: no Python >= 3.11 found (python3 is $$(python3 -V 2>&1 | head -1)); install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; \
	fi; \
	"$$python" -c "$$CHECK_BUILD" && rm -rf $(VENV) && "$$python" -m venv $(VENV) && touch $@

# What building needs, checked before the minutes that an install takes; one line each says what to do.
define CHECK_BUILD
import importlib.util as util, os, shlex, shutil, sys, sysconfig
if sys.version_info < (3, 11):
    sys.exit("error: regkit needs Python >= 3.11, but %s is %d.%d; name another: make test PYTHON=/path/to/python3.11" % (sys.executable, *sys.version_info[:2]))
if not (util.find_spec("venv") and util.find_spec("ensurepip")):
    sys.exit("error: %s cannot make virtual environments; install its venv module (Debian, Ubuntu: apt install python3-venv)" % sys.executable)
compiler = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++"
if not shutil.which(shlex.split(compiler)[0]):
    sys.exit("error: no C++ compiler (%s); install one (Debian, Ubuntu: apt install g++), or name yours in CXX" % compiler)
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit("error: %s lacks Python.h; install its headers (Debian, Ubuntu: apt install python3-dev)" % sys.executable)
endef
export CHECK_BUILD

define CHECK_GPU
import sys, torch
if not torch.cuda.is_available():
    sys.exit("make gpu: nothing ran: torch %s sees no GPU (built for CUDA: %s)" % (torch.__version__, torch.version.cuda or "no"))
print("make gpu: %s, torch %s" % (torch.cuda.get_device_name(), torch.__version__))
endef
export CHECK_GPU
