# tickwise. `make help` lists what there is; everything runs in .venv, which is made on first use.

PYTHON ?= python3
LOCK ?= requirements.lock
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# -C and sub-makes would otherwise print a line after the JSON line that `demo` and `bench` end with
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint lint-style lint-format lint-types lint-imports lint-locks format bench faults report lock clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(READY) ## everything at once on a real Kafka; ARGS="--source FILE_OR_FOLDER" for recorded ticks
	@exec $(BIN)/tickwise demo $(ARGS)

test: $(READY) ## unit, conformance, agent, API and integration tests; ARGS goes to pytest
	@exec $(BIN)/pytest -n 2 --dist loadfile $(ARGS)

lint: lint-style lint-format lint-types lint-imports lint-locks ## style, types, layers, lock files

lint-style: $(READY)
	@$(BIN)/ruff check .

lint-format: $(READY)
	@$(BIN)/ruff format --check .

lint-types: $(READY)
	@$(BIN)/mypy

lint-imports: $(READY)
	@$(BIN)/lint-imports

lint-locks: $(READY)
	@$(BIN)/pytest --quiet tests/unit/test_locks.py

format: $(READY) ## rewrite the style where that is safe
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY) ## the whole path beside other engines, short; the last line is JSON (full: tickwise bench)
	@exec $(BIN)/python -m tests.benchmarks short $(ARGS)

faults: $(READY) ## kill, stop and cut workers and brokers: what is lost or doubled? ARGS="--short" for some
	@exec $(BIN)/python -m tests.faults $(ARGS)

report: $(READY) ## models on real ticks, a page with plots; the last line is JSON. ARGS="--data FOLDER --cells ibm-10s"
	@exec $(BIN)/python -m tests.reports.quality $(ARGS)

# One resolution: the images take their versions from the lock that the tests run with.
COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --quiet \
	--no-emit-index-url --no-emit-find-links --no-header
lock: ## resolve anew after a change of dependencies (needs uv)
	@$(COMPILE) pyproject.toml --all-extras -o requirements.lock
	@$(COMPILE) pyproject.toml --extra postgres -c requirements.lock -o requirements-serve.lock
	@$(COMPILE) pyproject.toml --extra postgres --extra train --extra tune -c requirements.lock -o requirements-train.lock
	@echo hatchling | $(COMPILE) - -c requirements.lock -o requirements-build.lock

clean: ## remove caches, build products and the local stores in .tickwise (stop a local Kafka first)
	@rm -rf .tickwise .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info
	@find . -name $(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv
	@rm -rf $(VENV)

# --no-compile: most of what is installed is never imported, and compiling all of it takes half of the time
$(READY): $(LOCK) pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
		echo "tickwise needs Python 3.11 to 3.13 and there is no $(PYTHON); name one: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
		echo "tickwise needs Python 3.11 to 3.13 and $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "installing into $(VENV) (once, two to four minutes)" >&2
	@$(PYTHON) -m venv $(VENV) >&2
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --require-hashes -r $(LOCK) >&2
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation -e . >&2
	@touch $@
