# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR ?= demo
MARKS ?= not gpu and not slow and not services and not browser
JOBS ?= auto

.PHONY: demo test test-newest check lint types imports docs-tables clean

demo: $(VENV)/installed
	$(BIN)/upres demo $(DEMO_DIR)

# The tests that take seconds, several files at once: JOBS=0 runs one after the other. The tests of a
# file stay together, as they share a cluster. `make test MARKS="not gpu" JOBS=0` is all of them.
test: $(VENV)/installed
	$(BIN)/pytest -n $(JOBS) --maxprocesses 4 --dist loadfile -m "$(MARKS)"

# The same on the newest Python that is installed, in an environment beside that of $(PYTHON).
test-newest:
	@newest="$$(.ci/newest-python $(PYTHON))"; \
	if [ -z "$$newest" ]; then \
	    echo "skipped: no Python newer than $$($(PYTHON) --version) is installed"; \
	else \
	    version="$$("$$newest" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"; \
	    echo "tests on Python $$version ($$newest)"; \
	    $(MAKE) test PYTHON="$$newest" VENV=".venv-$$version"; \
	fi

check: lint types imports test

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

imports: $(VENV)/installed
	$(BIN)/lint-imports

# The tables of the recipe reference, from the code that reads recipes.
docs-tables: $(VENV)/installed
	$(BIN)/python -m pipeline.recipes.reference docs/recipes.md

# One pip call: two would let the second move the versions that the first chose.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"upres needs Python 3.11 or newer, this is {v[0]}.{v[1]}; name another one with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-3.* build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
