# pocketvlm: `make demo` sets up and answers about a picture; `make test` sets up and passes every check.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

SOURCES := pyproject.toml CMakeLists.txt $(shell find native -type f)

.PHONY: demo test test-full lint types pytest docs bench clean

demo: $(VENV)/.installed
	$(BIN)/pocketvlm run nano -i examples/penguin.png -p "Describe this image."

test: lint types pytest

lint: $(VENV)/.developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.developed
	$(BIN)/mypy

pytest: $(VENV)/.developed
	$(BIN)/pytest -m "not full"
	$(BIN)/pytest -m full

# The slow part of `make test` alone: the real checkpoint's shape, random weights, about 12 GB of memory.
test-full: $(VENV)/.developed
	$(BIN)/pytest -m full --durations=0

docs: $(VENV)/.developed
	$(BIN)/python docs/filemap.py

bench: $(VENV)/.developed
	$(BIN)/python benchmarks/against_transformers.py

clean:
	rm -rf build $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"pocketvlm needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Give another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet .
	@touch $@

$(VENV)/.developed: $(BIN)/python $(SOURCES) constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(VENV)/.installed $@
