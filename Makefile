# Every target installs what it needs into .venv (scripts/setup.sh). Only Python 3.11+ must be installed before.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
DENO := DENO_DIR=$(VENV)/deno NO_COLOR=1 $(VENV)/bin/deno
FUNCTION := supabase/functions/hf-inference
CLIENTS := tests/clients/v1/python
PYTEST_ARGS ?=
CACHE ?=
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

.DEFAULT_GOAL := help
.PHONY: help setup run demo test test-clients test-tools test-poolers soak check image bare bench bench-waiters bench-streams bench-overload bench-bodies lock

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s  %s\n", $$1, $$2 }' Makefile

setup: $(RUNTIME) $(DEV) ## install everything that the other targets need into .venv

run: $(RUNTIME) ## start the server on http://localhost:3000
	@exec $(PY) -m server serve

demo: $(RUNTIME) ## kill a server while it works, and check that it loses nothing (10 s, no key)
	@exec $(PY) scripts/demo.py

test: $(DEV) ## run all tests; with options: make test PYTEST_ARGS="-k journal"
	$(PY) -m pytest -n 4 --maxschedchunk=1 $(PYTEST_ARGS)

test-clients: $(DEV) ## try sixteen client libraries on /v1, and print a table (10 min)
	@exec $(PY) -m tests.clients.v1

test-tools: $(DEV) ## install tools for some tests: PgBouncer, Chromium, PostgreSQL 15, nginx, Prometheus, ffmpeg and others (Debian 12, root)
	@exec $(PY) -m tests.tools

test-poolers: $(DEV) ## run the acceptance tests through PgBouncer, in session and in transaction mode (10 min)
	$(PY) -m pytest -n 4 --maxschedchunk=1 tests/acceptance --pooler=session $(PYTEST_ARGS)
	$(PY) -m pytest -n 4 --maxschedchunk=1 tests/acceptance --pooler=transaction $(PYTEST_ARGS)

soak: $(DEV) ## run the fault tests at full length: every crash point, fifty kills, outages of a minute
	$(PY) -m pytest --soak -s $(PYTEST_ARGS)

check: $(DEV) ## check format, lint, types, layers and pins, as CI does
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) $(VENV)/bin/lint-imports
	$(PY) scripts/check_requirements.py
	$(DENO) fmt --check --config $(FUNCTION)/deno.json $(FUNCTION) tests/clients/*.ts tests/clients/v1/deno/*.ts
	$(DENO) lint --config $(FUNCTION)/deno.json $(FUNCTION)
	$(DENO) check --config $(FUNCTION)/deno.json $(FUNCTION)/index.ts $(FUNCTION)/tests

image: $(DEV) ## run the Dockerfile's steps in a clean root, and serve from it (2 min; root, debootstrap)
	@exec $(PY) -m scripts.image $(CACHE:%=--cache %)

bare: $(DEV) ## run the last commit on a Debian with only the README's prerequisites (5 min; root, debootstrap)
	@exec $(PY) -m scripts.bare $(CACHE:%=--cache %)

bench: $(DEV) ## measure a create that waits against a bare proxy (2 min; wrk and nginx)
	@exec $(PY) -m bench.run

bench-waiters: $(DEV) ## measure 2,000 long-polls together with other traffic (4 min)
	@exec $(PY) -m bench.waiters

bench-streams: $(DEV) ## measure 500 streams at 20 deltas a second (2 min)
	@exec $(PY) -m bench.streams

bench-overload: $(DEV) ## measure ten times the load of the capacity, in 512 MB (2 min)
	@exec $(PY) -m bench.overload

bench-bodies: $(DEV) ## measure the memory of 50 bodies of 20 MB at once, in 512 MB (1 min)
	@exec $(PY) -m bench.bodies

lock: ## pin the dependencies of pyproject.toml, with hashes (needs uv)
	@command -v uv >/dev/null || { echo "uv resolves the pins and is missing: pipx install uv" >&2; exit 1; }
	$(LOCK) pyproject.toml -o requirements.txt
	$(LOCK) --extra dev pyproject.toml -o requirements-dev.txt
	for name in current older; do $(LOCK) $(CLIENTS)/$$name.in -o $(CLIENTS)/$$name.txt || exit 1; done

# A dangling interpreter link (the system's Python was replaced) counts as missing, so the setup runs again.
$(PY):

$(RUNTIME): requirements.txt $(PY)
	@PYTHON="$(PYTHON)" sh scripts/setup.sh runtime

# Sequential, also with make -j.
$(DEV): requirements-dev.txt $(PY) | $(RUNTIME)
	@PYTHON="$(PYTHON)" sh scripts/setup.sh dev
