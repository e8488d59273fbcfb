# SPDX-License-Identifier: GPL-3.0-or-later
# Two commands matter: `make demo` and `make test`. Both make their own virtual environment in $(VENV).

VENV ?= .venv
BIN := $(VENV)/bin
# The first Python of PATH that is new enough. `make PYTHON=/path/to/python3` overrules it.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=
BENCH_ARGS ?=
# How many processes run the tests side by side; those that PYTEST_ARGS names run in one.
WORKERS ?= 2
RELEASE ?= rawhide

.DEFAULT_GOAL := help
.PHONY: help demo test servers lint types pytest storm long chaos docs bench scale clean

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
	$(BIN)/python -m pytest $(or $(PYTEST_ARGS),--numprocesses=$(WORKERS))

storm: $(VENV)/.dev ## Send 10,000 hostile messages to a listener on a real bus
	STORM=10000 $(BIN)/python -m pytest --timeout 1800 -k storm_of_hostile tests/integration/test_listener_hostile.py

long: $(VENV)/.dev ## The tests that take minutes each: brokers that lose, hang and come back, and a storm over RabbitMQ
	$(BIN)/python -m pytest -m long

chaos: $(VENV)/.dev ## 1,000 runs under a storm of faults; CHAOS_RUNS, CHAOS_STEPS, CHAOS_SEED, CHAOS_PLAYS=light
	CHAOS_RUNS=$(or $(CHAOS_RUNS),1000) $(BIN)/python -m pytest --capture=no -m "long or not long" tests/chaos/test_storm.py

docs: $(VENV)/.dev ## Build the manual into docs/_build/html
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html

bench: $(VENV)/.dev ## Measure plays against plain ansible-playbook, for the manual, listener and workers against bare ones
	$(BIN)/python -m benchmarks.bus
	$(BIN)/python -m benchmarks.slots
	$(BIN)/python -m benchmarks.plays --write docs/measured.inc $(BENCH_ARGS)

scale: $(VENV)/.dev ## Measure with 100,000 queued and 1,000,000 finished runs, and steps against a bare Celery chain
	$(BIN)/python -m benchmarks.scale

clean: ## Remove what the other targets made
	rm -rf $(VENV) build messages/build docs/_build *.egg-info messages/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "relengq needs Python 3.11 or newer in PATH, with its venv module."; exit 1; }
	@tests/install-missing venv $(PYTHON)
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml messages/pyproject.toml | $(BIN)/python
	$(PIP) install --editable messages --editable '.[bus,embedded,compose]'
	@tests/install-missing compose $(BIN)/python
	@touch $@

$(VENV)/.dev: pyproject.toml messages/pyproject.toml | $(BIN)/python
	$(PIP) install --editable messages --editable '.[dev]'
	@tests/install-missing compose $(BIN)/python
	@touch $@ $(VENV)/.demo
