# Everything a developer types. Needs make, Python 3.11 or newer and its venv module; the rest comes into .venv,
# once, with the versions and hashes of requirements.lock. After that all but `make lock` works without a network.

# Another interpreter than python3: make PYTHON=python3.12 …
PYTHON ?= python3
SOAK ?= 1
BIN := .venv/bin
READY := .venv/.ready

# What the promise rests on: every branch of it is to be run by a test (`make coverage`).
PROMISE := drop.py folders/* ledger/* optipub/* pipeline.py readiness.py

.SHELLFLAGS := -ec
MAKEFLAGS += --no-print-directory
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test soak lint types format coverage docs bench lock clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do \
	    printf 'make %-10s %s\n' "$$name" "$$what"; \
	done

demo: $(READY) ## a pretend OptiPub, the daemon and a few files, good and bad; ends by itself
	@$(BIN)/dropzone demo

test: lint types ## lint, types, then every test with coverage; one test: make test ARGS='-k name --no-cov'
	@$(BIN)/pytest --cov $(ARGS)

soak: $(READY) ## the long tests at full length (hours): kills, power cuts, random files; a tenth: make soak SOAK=0.1
	@DROPZONE_SOAK=$(SOAK) $(BIN)/pytest --timeout=0 -m soak $(ARGS)

lint: $(READY) ## ruff: rules and format
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check || { echo "make format mends this."; exit 1; }

types: $(READY) ## mypy, strict
	@$(BIN)/mypy --no-error-summary

format: $(READY) ## ruff mends what it can mend by itself
	@$(BIN)/ruff check --quiet --fix-only
	@$(BIN)/ruff format --quiet

coverage: $(READY) ## of the last make test: the modules that must have every branch
	@set -f; $(BIN)/coverage report --include="$$(printf 'dropzone/%s,' $(PROMISE))" --fail-under=100

docs: $(READY) ## what is written by the code: config.example.yaml, the man page, and README's diagram and transcript
	@$(BIN)/dropzone config example > config.example.yaml
	@$(BIN)/python tests/regenerate.py
	@$(BIN)/dropzone man > docs/dropzone.1

bench: $(READY) ## every benchmark; each prints what it measured side by side
	@for file in benchmarks/[!_]*.py; do printf '\n== %s\n' "$$file"; $(BIN)/python "$$file"; done

lock: ## requirements.lock again after a change of dependencies; newer releases too: make lock UPGRADE=--upgrade
	@$(PYTHON) -m venv --clear build/lock
	@build/lock/bin/pip install --quiet uv
	@build/lock/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --no-strip-extras --custom-compile-command 'make lock' \
	    --group dev $(UPGRADE) --output-file requirements.lock pyproject.toml

clean: ## removes all that make and the tools made, .venv included
	@rm -rf .venv build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Two steps, so that a change of pyproject.toml (a lint rule, say) needs no network.
.venv/.locked: requirements.lock
	@command -v $(PYTHON) >/dev/null || { \
	    echo "There is no $(PYTHON) here. dropzone needs Python 3.11 or newer: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "dropzone needs Python 3.11 or newer; $(PYTHON) here is $$($(PYTHON) -V 2>&1)."; \
	    echo "Another one: make PYTHON=python3.12"; exit 1; }
	@echo "Making .venv from requirements.lock (once, about a minute)"
	@$(PYTHON) -m venv --clear .venv || { \
	    echo "$(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	@touch $@

$(READY): .venv/.locked pyproject.toml
	@$(BIN)/pip install --quiet --no-index --no-deps --no-build-isolation --editable .
	@$(BIN)/pip check >/dev/null || { \
	    $(BIN)/pip check; echo "pyproject.toml asks for more than requirements.lock has: make lock"; exit 1; }
	@touch $@
