# Two commands: `make demo` distils and evaluates, `make test` runs every check.
# `make test-fast` runs the quick tests alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Hundreds of processes of the tests import the same modules: Python keeps their bytecode.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: clean demo docs install lint test test-fast tutorials

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/dd-plugins distill --dataset digits --ipc 1 --out runs/demo --overwrite
	$(BIN)/dd-plugins evaluate runs/demo --baselines
	$(BIN)/dd-plugins show runs/demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Four processes of one thread each: the tests' tensors are too small to share a step,
# and much of the time a test waits for a process that it has started.
# They keep the order of tests/conftest.py: the longest files begin first.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
	--numprocesses 4 --dist loadfile --no-loadscope-reorder

test: lint docs
	$(PYTEST)

# For the inner loop: no tests that tests/conftest.py marks as slow.
test-fast: $(STAMP)
	$(PYTEST) -m "not slow"

# Only changed pages are built. A build with warnings is thrown away: the next one would
# not warn again of pages that it takes as they are.
docs: $(STAMP)
	$(BIN)/python -m sphinx --fail-on-warning -q -b html docs docs/_build || \
		{ rm -rf docs/_build; exit 1; }

# Tutorials are notebooks with their outputs. They are run again by hand: some minutes.
tutorials: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python docs/run_tutorials.py

clean:
	rm -rf $(VENV) runs build docs/_build docs/jupyter_execute *.egg-info
