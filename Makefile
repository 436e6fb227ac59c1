# `make pareto` and `make test` work in a fresh clone; each sets up .venv first, once.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: pareto test check format figures clean

pareto: $(READY)
	$(BIN)/gpubench sweep configs/pareto.yaml

# three processes on two cores, for a quarter of the time is waiting; by files, whose tests share sweeps
test: check
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# the plots and tables of the README and docs/, from the runs in results/; pictures need a Chromium
figures: $(READY)
	$(BIN)/python benchmarks/figures.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gpubench needs Python 3.11 or newer; name one with PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
