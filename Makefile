# Everything needs only python3 (3.11+), make, bash and a package index. Nothing is installed
# outside .venv (and .venv-bench-*). Another Python: make test PYTHON=python3.13

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# What tests are compiled to is kept: each worker, and each process that a test starts, reads it.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

.PHONY: help
help: ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.demo ## Show the full stack at work in half a minute: four processes, real cities, one cache (REDIS=redis://...)
	@$(BIN)/python -m examples.city_service $(if $(REDIS),--redis $(REDIS))

.PHONY: test
test: $(VENV)/.dev ## Run the whole test suite
	@$(BIN)/python -m pytest -n 4 --dist loadscope --no-loadscope-reorder

.PHONY: soak
soak: $(VENV)/.dev ## Have processes share a cache while their Redis fails in all ways (SOAK_SECONDS=600)
	@$(BIN)/python -m tests.chaos.soak

.PHONY: check
check: $(VENV)/.dev ## Check format, lint, types and the dependency rule
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

.PHONY: format
format: $(VENV)/.dev ## Format the sources and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: bench
bench: ## Ask every question of speed, beside the rivals, on every Python here (about 5 minutes)
	@PYTHON="$(PYTHON)" $(PYTHON) benchmarks/everywhere.py $(if $(TRACES),--traces '$(abspath $(TRACES))')

.PHONY: bench-full
bench-full: ## The same with all repeats, and whole traces (half an hour; TRACES=folder)
	@PYTHON="$(PYTHON)" $(PYTHON) benchmarks/everywhere.py --full $(if $(TRACES),--traces '$(abspath $(TRACES))')

.PHONY: clean
clean: ## Remove the environments and what tools left behind
	rm -rf .venv .venv-* build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is made once; it is brought up to date when pyproject.toml changes.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11: name another, as in make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' \
		|| { echo "$(PYTHON) cannot make environments: install its venv package (Debian: python3-venv)" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo
