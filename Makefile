# Two doors for users (demo, test) and one for contributors (check). Everything installs itself.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Three test files at a time, of different kinds (tests/lanes.py): one kind alone would starve or leave cores idle.
PYTEST := $(BIN)/python -m pytest --numprocesses 3 --dist loadfile

.PHONY: demo test check lint format rig-deps bench screens docs clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[trainer]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[trainer,dev]'
	@touch $@

demo: $(VENV)/.installed  ## train on three embedded hosts: no Docker, no SSH daemon
	$(BIN)/hetero-tui demo

test: $(VENV)/.installed-dev rig-deps  ## everything, with the rig where this machine can have it
	$(PYTEST)

check: lint  ## format, lint, types, import contracts, fast tests
	$(PYTEST) -m 'not rig and not slow'

lint: $(VENV)/.installed-dev  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

rig-deps:
	@sh tests/rig/install.sh

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.startup

screens: $(VENV)/.installed-dev  ## take the documentation's pictures anew, from a real run of the demo
	$(BIN)/python -m docs.screens

docs: $(VENV)/.installed-dev  ## write the generated pages and build the site, warnings are errors
	$(BIN)/python -m docs.reference
	$(BIN)/python -m docs.man
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

clean:
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache
