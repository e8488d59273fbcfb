# SPDX-License-Identifier: GPL-3.0-or-later
# Two commands matter: `make demo` and `make test`. Both make their own virtual environment in $(VENV).

VENV ?= .venv
BIN := $(VENV)/bin
# The first Python of PATH that is new enough. `make PYTHON=/path/to/python3` overrules it.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=
RELEASE ?= rawhide

.DEFAULT_GOAL := help
.PHONY: help demo test servers lint types pytest docs bench clean

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.demo ## Start everything embedded, make a compose, show where it is, stop
	$(BIN)/relengq up --once nightly-compose -i release=$(RELEASE)
	@echo "Here, relengq is $(BIN)/relengq."

test: servers lint types pytest docs ## Install what the tests need, then check and test everything

servers: ## Install the servers that the tests need, or say which are missing
	@tests/install-missing servers

lint: $(VENV)/.dev ## Style, import floors, YAML and Ansible
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/yamllint --strict .
	PATH="$(abspath $(BIN)):$$PATH" ansible-lint --offline playbooks
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/relengq check
	$(BIN)/towncrier build --draft >/dev/null

types: $(VENV)/.dev ## Strict type checking
	$(BIN)/mypy

pytest: $(VENV)/.dev ## The tests alone; PYTEST_ARGS="tests/unit -k clock" narrows them
	$(BIN)/python -m pytest $(PYTEST_ARGS)

docs: $(VENV)/.dev ## Build the manual into docs/_build/html
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html

bench: $(VENV)/.demo ## Measure a play and a compose against plain ansible-playbook
	$(BIN)/python benchmarks/steps.py

clean: ## Remove what the other targets made
	rm -rf $(VENV) build docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "relengq needs Python 3.11 or newer in PATH, with its venv module."; exit 1; }
	@tests/install-missing venv $(PYTHON)
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[embedded,compose]'
	@tests/install-missing compose $(BIN)/python
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[dev]'
	@tests/install-missing compose $(BIN)/python
	@touch $@ $(VENV)/.demo
