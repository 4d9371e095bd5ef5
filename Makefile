# `make` alone prints the targets. Each one sets up what it needs; nothing but Python 3.11+ and make is assumed.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Processes that run tests, each with a stack of its own (1 GB). Tests wait for servers most of the time. Files go to
# them in the order of tests/conftest.py; xdist's own puts files of few tests last, and those are the longest ones.
TEST_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage lint format screenshot bench chaos scenarios up down lock clean

help: ## Print the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("K2 needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "Installing the locked packages into $(VENV): about 500 MB to download, 1 to 3 minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m k2_dagster.ingest.warm
	@touch $(STAMP)

setup: $(STAMP) ## Install everything, from the lock with hashes

demo: $(STAMP) ## Run the main job on real parts, with planted faults and a proof (DEMO_SECONDS, CAPTURE, DEMO_KEEP)
	@$(BIN)/python -m proofs.demo

test: $(STAMP) ## Run every test, real Kafka included; fails below the coverage floor too
	@$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder --durations=40 --cov --cov-report=

coverage: ## Say which lines the last `make test` did not reach
	@$(BIN)/python -m coverage report

lint: $(STAMP) ## Check format, style, imports between rooms, and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports
	@$(BIN)/mypy

format: $(STAMP) ## Format the code and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

screenshot: $(STAMP) ## Take the README's picture of Dagster from the stack that `make demo` left up (needs a Chromium)
	@$(BIN)/python -m proofs.screenshot

bench: $(STAMP) ## Measure (BENCH=name for one); results go to build/bench.jsonl
	@$(BIN)/python -m proofs.bench $(BENCH)

KILLS ?= 40
SEED ?= 1
chaos: $(STAMP) ## Kill it n times at enumerated points and prove that nothing is lost (KILLS, SEED)
	@$(BIN)/python -m proofs.chaos --kills $(KILLS) --seed $(SEED)

SEEDS ?= 100
scenarios: $(STAMP) ## Plant every fault in every sequence domain and compare the ledger, n times (SEEDS)
	@$(BIN)/python -m proofs.scenarios --seeds $(SEEDS)

up: $(STAMP) ## Start Kafka, schema registry and PostgreSQL for development
	@$(BIN)/k2 dev up

down: $(STAMP) ## Stop the development stack and remove its data
	@$(BIN)/k2 dev down --purge --yes

lock: ## Resolve the dependencies again into requirements.lock (needs uv)
	uv pip compile pyproject.toml --extra stack --extra s3 --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate \
		--custom-compile-command "make lock" --quiet --output-file requirements.lock

clean: ## Remove what was built, but not the installed packages
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis
