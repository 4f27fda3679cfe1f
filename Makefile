# Everything a newcomer needs: `make demo` shows the product, `make test` proves it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled at their first import, once.
export PYTHONDONTWRITEBYTECODE =

# A stamp per dependency set, so that a second `make` starts at once. torch is pinned to a build without GPU libraries.
$(VENV)/run.stamp: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the dependencies into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --no-compile torch==2.13.0 --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	@$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'
	@touch $@

.PHONY: demo test check bench clean
demo: $(VENV)/run.stamp  ## train, compress and report on the bundled data: writes runs/demo/
	@$(BIN)/triptych demo --out runs/demo

test: check  ## style, types and every test
	@$(BIN)/python -m pytest -n 2

check: $(VENV)/dev.stamp
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/dev.stamp  ## regenerate every table in docs/ (hours)
	@$(BIN)/python -m benchmarks.all

clean:
	rm -rf runs build dist .pytest_cache .mypy_cache .ruff_cache
