# make demo   sets everything up in .venv, then shows a whole run
# make test   what has to pass before a change goes in

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test lint bench clean

help:
	@echo "make setup   install Blemish and what training needs into $(VENV)"
	@echo "make demo    set up, then make a product line, train on it, inspect it and write a report into demo/"
	@echo "make test    lint, then all tests"
	@echo "make lint    ruff and mypy"
	@echo "make bench   time the metrics; benchmarks/README.md lists the other harnesses"
	@echo "make clean   remove what the others made, except $(VENV)"
	@echo "PYTHON=python3.12 chooses the Python of $(VENV); it is $(PYTHON) now."

setup: $(VENV)/.train

demo: setup
	$(BIN)/blemish demo

test: lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/metrics.py
	@echo "benchmarks/README.md lists the harnesses that need a model file or images."

clean:
	rm -rf demo reports build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is newer than what it was made from, so that nothing is installed twice.

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Blemish needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1)." >&2; \
		echo "Name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.train: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing torch and what else training needs; this takes a few minutes."
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing torch and what else training, tests and checks need; this takes a few minutes."
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.train
