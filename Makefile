# `make` or `make help` says what there is. A fresh machine needs Python 3.11 or newer and make; everything else is
# put into .venv by the targets themselves.
#
#   PYTHON=…   the interpreter to build the environment with (default: the newest one that really runs)
#   VENV=…     another place for the environment, one per interpreter: make test PYTHON=python3.12 VENV=.venv-3.12
#   PEERS=…    the same for what `make bench` compares with

VENV ?= .venv
PEERS ?= .venv-peers
PYTHON ?= python3.13 python3.12 python3.11 python3 python

# Quiet twice: pip's warnings are about the machine it runs on, its errors still show.
PIP := $(VENV)/bin/python -m pip --quiet --quiet --disable-pip-version-check
STAMP := $(VENV)/.built
PEERS_STAMP := $(PEERS)/.built

.DEFAULT_GOAL := help
.PHONY: help install run serve test test-fast steps hosts smoke chaos bench bench-quick bench-limits check format wheel clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP)  ## build the environment (every other target does it when needed)

run: $(STAMP)  ## the whole worker on examples/orders.jsonl, with nothing installed; ends by itself
	@$(VENV)/bin/python examples/run.py

serve: $(STAMP)  ## the same, but it keeps running, with Flower at the address it prints
	@$(VENV)/bin/python examples/run.py --serve

test: $(STAMP)  ## all tests, on a real PostgreSQL and a real broker it starts itself
	@$(VENV)/bin/python -m pytest -m "not docker and not hosts and not steps" -n 3 --dist loadfile

test-fast: $(STAMP)  ## the tests that start no servers
	@$(VENV)/bin/python -m pytest -m "not slow"

steps: $(STAMP)  ## a process killed right before and right after each of its steps, 300 times; docs/kill-table.md is what came of it
	@$(VENV)/bin/python -m pytest -m steps tests/steps

hosts: $(STAMP)  ## the wheel in both host projects, on every Python that is found; takes minutes and needs a package index
	@$(VENV)/bin/python -m pytest -m hosts -n 2 --durations=0 --durations-min=1 tests/hosts

smoke: $(STAMP)  ## the image as nodes of pytest-celery and in docker-compose.yml; needs a Docker engine; SMOKE="--short" for a minute of it
	@$(VENV)/bin/python -m pytest -m docker tests/containers $(SMOKE)

bench: $(STAMP) $(PEERS_STAMP)  ## this worker beside its peers, with tables and charts; under 20 minutes. BENCH="--only drain" chooses
	@$(VENV)/bin/python -m bench --peers-python $(abspath $(PEERS))/bin/python $(BENCH)

bench-quick: $(STAMP) $(PEERS_STAMP)  ## the same in two minutes, beside a plain Celery task only
	@$(VENV)/bin/python -m bench --quick --peers-python $(abspath $(PEERS))/bin/python $(BENCH)

bench-limits: $(STAMP)  ## how well the provider's quotas are used and kept, with charts; BENCH="--short" for a minute of it
	@$(VENV)/bin/python -m bench.limits $(BENCH)

chaos: $(STAMP)  ## everything dies, stalls and lies, judged at the provider; CHAOS="--seeds 20", CHAOS=--short for a minute
	@$(VENV)/bin/python -m tests.chaos $(CHAOS)

check: $(STAMP)  ## format, lint, types, import contracts, docstrings of tests; lists long bodies to look at
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m interrogate tests
	@$(VENV)/bin/python .ci/places_to_look.py

format: $(STAMP)  ## rewrite the files as `make check` wants them, where a machine can
	$(VENV)/bin/python -m ruff check --fix-only .
	$(VENV)/bin/python -m ruff format .

wheel: $(STAMP)  ## build the wheel into dist/
	$(VENV)/bin/python -m hatchling build --target wheel

clean:  ## remove the environment, the caches and what was built
	rm -rf $(VENV) $(PEERS) build dist .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A candidate counts when it runs, not when it is found: version managers leave names on the path that only print an
# error.
$(STAMP): pyproject.toml constraints.txt
	@fit=; without_pip=; \
	for candidate in $(PYTHON); do \
	  "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	  if "$$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then fit=$$candidate; break; fi; \
	  without_pip=$${without_pip:-$$candidate}; \
	done; \
	if [ -z "$$fit" ] && [ -n "$$without_pip" ]; then \
	  name=$$("$$without_pip" -c 'import sys; print("python%d.%d" % sys.version_info[:2])'); \
	  echo "$$without_pip is new enough but cannot build an environment: it has no ensurepip." >&2; \
	  echo "On Debian and Ubuntu:  apt install $$name-venv" >&2; \
	  echo "On others: install $$name complete, or say which:  make … PYTHON=/path/to/another" >&2; \
	  exit 1; \
	elif [ -z "$$fit" ]; then \
	  echo "No Python 3.11 or newer runs here. Tried: $(PYTHON)." >&2; \
	  echo "Install one, or say which:  make $(or $(MAKECMDGOALS),help) PYTHON=/path/to/python3.12" >&2; \
	  exit 1; \
	fi; \
	echo "Building $(VENV) with $$("$$fit" --version) …"; \
	"$$fit" -m venv --clear $(VENV)
	@$(PIP) install --constraint constraints.txt editables hatchling
	@$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[embedded,flower,test,bench,dev]'
	@touch $@

# A peer must not be held to our versions, nor we to its: they get an environment of their own.
$(PEERS_STAMP): bench/peers/constraints.txt $(STAMP)
	@echo "Building $(PEERS) …"
	@$(VENV)/bin/python -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip --quiet --quiet --disable-pip-version-check install --requirement bench/peers/constraints.txt
	@touch $@
