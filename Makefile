# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR ?= demo
MARKS ?= not gpu and not slow and not services and not browser and not compose
TESTS ?=
JOBS ?= auto
K ?=

.PHONY: help demo up down install install-newest test test-one test-newest check lint types imports format docs-tables clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/installed ## install, and upscale eight photographs end to end (DEMO_DIR=demo)
	$(BIN)/upres demo $(DEMO_DIR)

up: ## start all services with Docker, and build their image if it is not there (needs .env)
	@test -f .env || { echo "copy .env.example to .env, and set both passwords there"; exit 2; }
	docker compose up --detach --wait

down: ## end all services; pictures, jobs, runs and schedules stay
	docker compose down

# JOBS processes at once; JOBS=0 runs one test after the other. Each begins with files of its own, and
# one that is done takes over from another, so that none stands idle while a long file goes on.
# What Python compiled is kept, whatever the environment says: each process saves seconds by it.
# `make test MARKS="not gpu" JOBS=0` is all of them. What a test leaves is kept only if it failed.
test: $(VENV)/installed ## run the tests that take seconds
	PYTHONDONTWRITEBYTECODE= PYTEST_DEBUG_TEMPROOT="$$(.ci/room-in-memory 4)" $(BIN)/pytest -n $(JOBS) --maxprocesses 4 --dist worksteal -m "$(MARKS)" $(TESTS)

test-one: $(VENV)/installed ## run the tests whose names contain a text: K=seam
	@test -n "$(K)" || { echo "say which: make test-one K=TEXT"; exit 2; }
	$(BIN)/pytest -m "not gpu" -k "$(K)"

# In an environment beside that of $(PYTHON).
test-newest: ## run the same tests on the newest Python of this machine
	@$(call with-newest,test)

install-newest: # What `test-newest` needs, which takes minutes of waiting for the network.
	@$(call with-newest,install)

install: $(VENV)/installed

define with-newest
newest="$$(.ci/newest-python $(PYTHON))"; \
if [ -z "$$newest" ]; then \
    echo "skipped: no Python newer than $$($(PYTHON) --version) is installed"; \
else \
    version="$$("$$newest" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"; \
    echo "$(1) on Python $$version ($$newest)"; \
    $(MAKE) $(1) PYTHON="$$newest" VENV=".venv-$$version"; \
fi
endef

check: lint types imports test ## run what must pass before a change lands, but for the long tests

lint: $(VENV)/installed ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed ## check types
	$(BIN)/mypy

imports: $(VENV)/installed ## check that every import keeps to the rooms
	$(BIN)/lint-imports

format: $(VENV)/installed ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs-tables: $(VENV)/installed ## write the tables of docs/recipes.md from the code
	$(BIN)/python -m pipeline.recipes.reference docs/recipes.md

# pip would compile all modules, which takes over a minute. Most are never imported, and others are compiled when they
# first are. Here it is those that a run, a night and the tests begin with.
AT_EACH_START := flows.main_job, flows.nightly, flows.prepare, flows.train, flows.train_listening, matplotlib.pyplot, prefect.server.api.server, pytest

# One pip call: two would let the second move the versions that the first chose. The pip of a new environment is as old
# as its Python, and may take half as long again.
$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"upres needs Python 3.11 or newer, this is {v[0]}.{v[1]}; name another one with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --quiet --disable-pip-version-check --upgrade pip || echo "this goes on with the pip that came with Python"
	torch="$$($(BIN)/python .ci/torch-index "$$(sed -n 's/^ *"\(torch[><=].*\)",/\1/p' pyproject.toml)")" && \
	$(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-compile $$torch -e '.[dev]'
	PYTHONDONTWRITEBYTECODE= PREFECT_HOME=$(abspath $(VENV)) $(BIN)/python -c 'import $(AT_EACH_START)'
	touch $@

clean: ## remove what was installed and what the tools left
	rm -rf $(VENV) .venv-3.* build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
