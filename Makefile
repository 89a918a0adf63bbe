# Plain `make` lists what it can do. Everything is installed into .venv, nothing outside this folder.
PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
READY := .venv/.ready
INSTALL = $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt -e '.[dev]'
LINT = $(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

.PHONY: help setup demo test quick bench wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything in it (about 6 GB, 2–4 minutes)

demo: $(READY) ## train and inspect on pictures made here, and say where the report is
	@$(BIN)/python -m vision.demo

test: $(READY) ## lint, format, types and all tests
	@$(LINT)
	@$(PYTEST)

quick: $(READY) ## lint, format, types and the tests that are fast (under a minute)
	@$(LINT)
	@$(PYTEST) -m "not slow" --hypothesis-profile=quick

bench: $(READY) ## measure speed, peak memory and repeatability (RELEASED=checkout of Multi-HMR)
	@$(BIN)/python scripts/bench.py
	@$(BIN)/python scripts/bench_restoration.py
	@$(BIN)/python scripts/bench_bodies.py
	@$(BIN)/python scripts/bench_mesh.py $(if $(RELEASED),--released $(RELEASED))

wheel: $(READY) ## build dist/visionmend-….whl
	@$(BIN)/python -m build --wheel --no-isolation

clean: ## remove what tools left behind; .venv, runs and results stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find data vision tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so a failed installation is tried again the next time.
# constraints.txt holds the versions that the tests were run with.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "$(PYTHON) is missing or older than 3.11; install a later one: make PYTHON=python3.12"; \
		exit 1; }
	@echo "[1/2] making .venv (a few seconds)"
	@$(PYTHON) -m venv .venv
	@echo "[2/2] installing visionmend and what it needs into .venv (about 6 GB, 2–4 minutes)"
	@$(INSTALL) -qq || { echo "that failed; see why with: $(INSTALL)"; exit 1; }
	@touch $@
