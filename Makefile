# `make demo` runs the main job, `make test` passes the tests; both make .venv on first use.

PYTHON ?= python3
BIN = .venv/bin

# An interpreter that is asked for by name is not passed over in silence where .venv has another.
ifeq ($(origin PYTHON) $(wildcard $(BIN)/python),command line $(BIN)/python)
ifneq ($(shell $(BIN)/python -V),$(shell $(PYTHON) -V))
$(if $(filter clean,$(MAKECMDGOALS)),,$(error .venv has $(shell $(BIN)/python -V), not $(PYTHON): `make clean` first))
endif
endif

.DEFAULT_GOAL := help
.PHONY: help demo optional test test-slow test-all test-gpu-paths bench docs requirements clean

help:
	@echo "make demo       search, retrain and compare diag_hessian and adam on MNIST-1D (about a minute)"
	@echo "make optional   install more optimizers (soap, shampoo, lion and others) and data (of statsmodels)"
	@echo "make test       lint, types and tests"
	@echo "make test-slow  the tests that take long, and more cases of those above (over an hour)"
	@echo "make test-all   all tests, Hypothesis with new examples; says what took longest and what was skipped, and why"
	@echo "make test-gpu-paths  what runs on a GPU, on one that computes nothing and counts (needs gcc); part of make test"
	@echo "make bench      time the search, the training loop and the optimizers against others; the estimators' errors"
	@echo "make docs       write docs/optimizers.md and docs/tasks.md from docstrings and YAML files"

demo: .venv/.installed
	$(BIN)/python -m tuner.search --task mnist1d --preset smoke --optimizers diag_hessian adam

optional: .venv/.installed
	@if command -v uv >/dev/null; then uv pip install -q --python $(BIN)/python -r requirements-optional.txt; \
	else $(BIN)/pip install -q -r requirements-optional.txt; fi

test: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@broken="$$($(BIN)/lint-imports --no-logo --no-cache)" || { echo "$$broken"; exit 1; }
	$(BIN)/pytest -n 2 --no-loadscope-reorder
	$(BIN)/python -m tests.null_gpu

test-gpu-paths: .venv/.installed-dev
	$(BIN)/python -m tests.null_gpu

test-slow: .venv/.installed-dev
	$(BIN)/pytest -m slow

test-all: .venv/.installed-dev
	NEW_EXAMPLES=1 $(BIN)/pytest -n 2 --no-loadscope-reorder -m "slow or not slow" --durations=30 -rs

bench: .venv/.installed-dev
	$(BIN)/python -m benchmarks.search_throughput --out docs/performance.md
	$(BIN)/python -m benchmarks.optimizer_step
	$(BIN)/python -m benchmarks.estimators
	$(BIN)/python -m benchmarks.spaces --out docs/spaces.md
	$(BIN)/python -m benchmarks.train_loop --out docs/train_loop.md
	$(BIN)/python -m benchmarks.report_time
	$(BIN)/python -m benchmarks.soak --cohorts 1 auto --out docs/reliability.md

docs: .venv/.installed
	$(BIN)/python docs/generate.py

.venv/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: Python 3.11 or newer is needed, $(PYTHON) is `$(PYTHON) --version`; say make PYTHON=python3.12"; exit 2; }
	@echo "installing into .venv (PyTorch is large: one to three minutes) ..."
	@if command -v uv >/dev/null; then \
	    { test -x $(BIN)/python || uv venv -q --python "$$(command -v $(PYTHON))" .venv; } && \
	    uv pip install -q --compile-bytecode --python $(BIN)/python -r requirements.txt; \
	else \
	    { test -x $(BIN)/pip || $(PYTHON) -m venv .venv; } && $(BIN)/pip install -q -r requirements.txt; \
	fi
	@touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.txt
	@if command -v uv >/dev/null; then uv pip install -q --compile-bytecode --python $(BIN)/python -r requirements-dev.txt; \
	else $(BIN)/pip install -q -r requirements-dev.txt; fi
	@touch $@

# torch and torchvision are a pair; both are known to work here.
COMPILE = uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links \
          --no-header --no-annotate
requirements:
	printf 'torch==2.14.1\ntorchvision==0.29.1\n' | $(COMPILE) -c - pyproject.toml -o requirements.txt
	$(COMPILE) --group optional -c requirements.txt -o requirements-optional.txt
	$(COMPILE) --group dev -c requirements.txt -o requirements-dev.txt

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
